//! `tollgate admin budget`: budgets through the management API.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::client::{Column, Query, Session};
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

/// Whose: an organisation's, or a part of it; without --org the platform's default for a level.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// Of which organisation; left out: the platform's default.
    #[arg(long)]
    org: Option<OrgId>,
    /// Of this key.
    #[arg(long, group = "subject")]
    key: Option<KeyId>,
    /// Of this user.
    #[arg(long, group = "subject")]
    user: Option<UserId>,
    /// Of this team.
    #[arg(long, group = "subject")]
    team: Option<TeamId>,
    /// Of each key, user or team that has none of its own, or of the organisation.
    #[arg(long, group = "subject", value_parser = ["key", "user", "team", "organisation"], value_name = "LEVEL")]
    each: Option<String>,
}

impl Whose {
    fn path(&self) -> String {
        self.org.map_or_else(|| "/admin/v1/budgets".into(), |org| format!("/admin/v1/orgs/{org}/budgets"))
    }

    /// Its level and its subject.
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
    /// Make a budget. What was spent in its present window before counts at once.
    Create {
        #[command(flatten)]
        whose: Whose,
        /// Of which time: total, daily, weekly, monthly.
        #[arg(long, value_parser = ["total", "daily", "weekly", "monthly"])]
        period: String,
        /// How much: a number, or 'unlimited'.
        #[arg(long, value_parser = amount, value_name = "CREDITS")]
        credits: Amount,
        /// Percent of the limit at which an event is raised.
        #[arg(long, value_delimiter = ',', value_name = "PERCENT")]
        thresholds: Option<Vec<i32>>,
    },
    /// List budgets, with what is spent in the present window.
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Show one.
    Show {
        /// Which.
        budget: BudgetId,
    },
    /// Change one. What is not given stays.
    Update {
        /// Which.
        budget: BudgetId,
        /// How much: a number, or 'unlimited'.
        #[arg(long, value_parser = amount, value_name = "CREDITS")]
        credits: Option<Amount>,
        /// Percent of the limit at which an event is raised.
        #[arg(long, value_delimiter = ',', value_name = "PERCENT")]
        thresholds: Option<Vec<i32>>,
    },
    /// Raise one for a time; it falls back by itself.
    Raise {
        /// Which.
        budget: BudgetId,
        /// To how much.
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
        credits: i64,
        /// Until when, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_parser = instant)]
        until: OffsetDateTime,
    },
    /// End a raise now.
    EndRaise {
        /// Which.
        budget: BudgetId,
    },
    /// Delete one. What was counted stays.
    Delete {
        /// Which.
        budget: BudgetId,
    },
    /// List the thresholds that an organisation's budgets have reached, newest first.
    Events {
        /// Which organisation.
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
                return Err(CliError::Usage("whose? Give --key, --user, --team or --each LEVEL".into()));
            };
            let body = json!({
                "level": level, "subject_id": subject, "period": period, "credits": credits.0, "thresholds": thresholds,
            });
            let made = session.post(&whose.path(), body).await?;
            session.say(&made, named(&made, "budget_id"));
        }
        BudgetCommand::List { whose } => {
            let (level, subject) = whose.of();
            let query = Query::default().add("level", level).add("subject_id", subject);
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
