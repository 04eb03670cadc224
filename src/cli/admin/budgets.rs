//! `tollgate admin budget`: budgets through the management API.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::{instant, named, text};
use crate::ids::{BudgetId, KeyId, OrgId, TeamId, UserId};

const BUDGET: &[Column] = &[
    ("BUDGET", "budget_id"),
    ("LEVEL", "level"),
    ("SUBJECT", "subject_id"),
    ("PERIOD", "period"),
    ("LIMIT", "limit"),
    ("USED", "used"),
    ("HELD", "held"),
    ("RESETS", "resets_at"),
    ("RAISED UNTIL", "raised_until"),
    ("COUNTING", "counting"),
];
const EVENT: &[Column] = &[
    ("TIME", "created_at"),
    ("BUDGET", "budget_id"),
    ("LEVEL", "level"),
    ("SUBJECT", "subject_id"),
    ("PERIOD", "period"),
    ("PERCENT", "threshold"),
    ("LIMIT", "limit"),
    ("SPENT", "spent"),
];

#[derive(Debug, Clone, Copy)]
pub(super) struct Amount(Option<i64>);

fn amount(text: &str) -> Result<Amount, String> {
    match (text, text.parse()) {
        ("unlimited", _) => Ok(Amount(None)),
        (_, Ok(credits @ 0..)) => Ok(Amount(Some(credits))),
        _ => Err("give a number of credits, or 'unlimited'".into()),
    }
}

/// The subject of a budget: an organisation or a part of one; without --org, a level for the whole platform.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// Id of the organisation; omitted: the platform's default budgets.
    #[arg(long)]
    org: Option<OrgId>,
    /// Budget of this key.
    #[arg(long, group = "subject")]
    key: Option<KeyId>,
    /// Budget of this user.
    #[arg(long, group = "subject")]
    user: Option<UserId>,
    /// Budget of this team.
    #[arg(long, group = "subject")]
    team: Option<TeamId>,
    /// Budget of the organisation, or default budget of each key, user or team without one of its own.
    #[arg(long, group = "subject", value_parser = ["key", "user", "team", "organisation"], value_name = "LEVEL")]
    each: Option<String>,
}

impl Whose {
    fn path(&self) -> String {
        self.org.map_or_else(|| "/admin/v1/budgets".into(), |org| format!("/admin/v1/orgs/{org}/budgets"))
    }

    /// The level, and the id of the subject if one is named.
    fn of(&self) -> (Option<&str>, Option<String>) {
        let named = [
            ("key", self.key.map(|id| id.to_string())),
            ("user", self.user.map(|id| id.to_string())),
            ("team", self.team.map(|id| id.to_string())),
        ];
        let found = named.into_iter().find(|(_, subject)| subject.is_some());
        found.map_or((self.each.as_deref(), None), |(level, subject)| (Some(level), subject))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum BudgetCommand {
    /// Create a budget. What was already spent in its current window counts.
    Create {
        #[command(flatten)]
        whose: Whose,
        /// Period over which spending is counted.
        #[arg(long, value_parser = ["total", "daily", "weekly", "monthly"])]
        period: String,
        /// Limit in credits, or 'unlimited'.
        #[arg(long, value_parser = amount, value_name = "CREDITS")]
        credits: Amount,
        /// Percentages of the limit at which an event is recorded, separated by commas; omitted: 50,80,100.
        #[arg(long, value_delimiter = ',', value_name = "PERCENT")]
        thresholds: Option<Vec<i32>>,
    },
    /// List budgets, with the spending in their current window.
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Show a budget.
    Show {
        /// Id of the budget.
        budget: BudgetId,
    },
    /// Change a budget. Settings that are not given stay.
    Update {
        /// Id of the budget.
        budget: BudgetId,
        /// Limit in credits, or 'unlimited'.
        #[arg(long, value_parser = amount, value_name = "CREDITS")]
        credits: Option<Amount>,
        /// Percentages of the limit at which an event is recorded, separated by commas.
        #[arg(long, value_delimiter = ',', value_name = "PERCENT")]
        thresholds: Option<Vec<i32>>,
    },
    /// Raise the limit of a budget for a time; afterwards the former limit is back by itself.
    Raise {
        /// Id of the budget.
        budget: BudgetId,
        /// Limit while the raise lasts, in credits.
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
        credits: i64,
        /// End of the raise, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_parser = instant)]
        until: OffsetDateTime,
    },
    /// End the raise of a budget now.
    EndRaise {
        /// Id of the budget.
        budget: BudgetId,
    },
    /// Delete a budget. The counted spending stays.
    Delete {
        /// Id of the budget.
        budget: BudgetId,
    },
    /// List the thresholds that an organisation's budgets have reached, newest first.
    Events {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
    },
}

pub(super) async fn run(session: &Session, command: BudgetCommand) -> Result<(), CliError> {
    let path = |budget: BudgetId| format!("/admin/v1/budgets/{budget}");
    match command {
        BudgetCommand::Create { whose, period, credits, thresholds } => {
            let (level, subject) = whose.of();
            let Some(level) = level else {
                return Err(CliError::Usage(
                    "no subject given: use --key, --user, --team or --each LEVEL".into(),
                ));
            };
            let body = json!({
                "level": level, "subject_id": subject, "period": period, "credits": credits.0, "thresholds": thresholds,
            });
            let made = session.post(&whose.path(), body).await?;
            session.say(&made, named(&made, "budget_id"));
        }
        BudgetCommand::List { whose } => {
            let (level, subject) = whose.of();
            let query = QueryString::default().add("level", level).add("subject_id", subject);
            session.list(&query.of(&whose.path()), BUDGET).await?;
        }
        BudgetCommand::Show { budget } => session.show(&session.get(&path(budget)).await?, BUDGET),
        BudgetCommand::Update { budget, credits, thresholds } => {
            let mut patch = Map::new();
            if let Some(Amount(credits)) = credits {
                patch.insert("credits".into(), credits.into());
            }
            if let Some(thresholds) = thresholds {
                patch.insert("thresholds".into(), thresholds.into());
            }
            session.show(&session.patch(&path(budget), Value::Object(patch)).await?, BUDGET);
        }
        BudgetCommand::Raise { budget, credits, until } => {
            let body = json!({"credits": credits, "until": text(until)});
            session.show(&session.post(&format!("{}/raise", path(budget)), body).await?, BUDGET);
        }
        BudgetCommand::EndRaise { budget } => {
            session.call(Method::DELETE, &format!("{}/raise", path(budget)), None).await?;
            session
                .say(&json!({"budget_id": budget, "raised": false}), format_args!("{budget} is not raised"));
        }
        BudgetCommand::Delete { budget } => {
            session.call(Method::DELETE, &path(budget), None).await?;
            session.say(&json!({"budget_id": budget, "deleted": true}), format_args!("{budget} is deleted"));
        }
        BudgetCommand::Events { org } => {
            session.list(&format!("/admin/v1/orgs/{org}/budget-events"), EVENT).await?;
        }
    }
    Ok(())
}
