//! `tollgate admin key-policy`, `budget-request`: what members do for themselves.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::{instant, named, text};
use crate::ids::{BudgetRequestId, OrgId, UserId};

const POLICY: &[Column] = &[
    ("ENABLED", "enabled"),
    ("MAX KEYS", "max_keys"),
    ("MAX DAYS", "max_days"),
    ("TYPES", "allowed_types"),
    ("BUDGET PERIOD", "key_budget.period"),
    ("BUDGET", "key_budget.credits"),
];
const REQUEST: &[Column] = &[
    ("REQUEST", "request_id"),
    ("STATE", "state"),
    ("USER", "user_id"),
    ("LEVEL", "level"),
    ("SUBJECT", "subject_id"),
    ("PERIOD", "period"),
    ("CREDITS", "credits"),
    ("UNTIL", "until"),
    ("REASON", "reason"),
    ("GRANTED", "granted"),
    ("ANSWER", "answer"),
];

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Show what members may do with keys of their own.
    Show {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
    },
    /// Change what members may do with keys of their own. Settings that are not given stay.
    Update(PolicyUpdate),
}

#[derive(Debug, Clone)]
struct KeyBudget {
    period: String,
    credits: i64,
}

fn key_budget(text: &str) -> Result<KeyBudget, String> {
    let of = |(period, credits): (&str, &str)| {
        let credits = credits.parse().ok().filter(|credits| *credits >= 0)?;
        ["total", "daily", "weekly", "monthly"]
            .contains(&period)
            .then(|| KeyBudget { period: period.into(), credits })
    };
    text.split_once(':').and_then(of).ok_or_else(|| {
        "give a period (total, daily, weekly, monthly) and credits, such as monthly:5000".into()
    })
}

#[derive(Debug, Args)]
pub(super) struct PolicyUpdate {
    /// Id of the organisation.
    #[arg(long)]
    org: OrgId,
    /// Whether members may create, rename, rotate and revoke keys of their own.
    #[arg(long, value_name = "true|false")]
    enabled: Option<bool>,
    /// How many keys a member may have that are neither revoked nor expired.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=1000))]
    max_keys: Option<i32>,
    /// Longest life of a key that a member creates, in days.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i32).range(1..=3650), conflicts_with = "no_max_days")]
    max_days: Option<i32>,
    /// Keys of members need no end.
    #[arg(long)]
    no_max_days: bool,
    /// Task types that keys of members may create, separated by commas.
    #[arg(long, value_delimiter = ',', conflicts_with = "all_types")]
    types: Option<Vec<String>>,
    /// Keys of members may create all task types.
    #[arg(long)]
    all_types: bool,
    /// Budget that each key of a member is created with, such as monthly:5000.
    #[arg(long, value_parser = key_budget, value_name = "PERIOD:CREDITS", conflicts_with = "no_key_budget")]
    key_budget: Option<KeyBudget>,
    /// Keys of members are created without a budget.
    #[arg(long)]
    no_key_budget: bool,
}

impl PolicyUpdate {
    fn patch(self) -> Value {
        let mut patch = Map::new();
        let mut set = |field: &str, value: Option<Value>, none: bool| {
            if let Some(value) = value.or_else(|| none.then_some(Value::Null)) {
                patch.insert(field.into(), value);
            }
        };
        let budget =
            self.key_budget.map(|budget| json!({"period": budget.period, "credits": budget.credits}));
        set("enabled", self.enabled.map(Value::from), false);
        set("max_keys", self.max_keys.map(Value::from), false);
        set("max_days", self.max_days.map(Value::from), self.no_max_days);
        set("allowed_types", self.types.map(Value::from), self.all_types);
        set("key_budget", budget, self.no_key_budget);
        patch.into()
    }
}

pub(super) async fn policy(session: &Session, command: PolicyCommand) -> Result<(), CliError> {
    let path = |org: OrgId| format!("/admin/v1/orgs/{org}/key-policy");
    match command {
        PolicyCommand::Show { org } => session.show(&session.get(&path(org)).await?, POLICY),
        PolicyCommand::Update(update) => {
            let path = path(update.org);
            session.show(&session.patch(&path, update.patch()).await?, POLICY);
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(super) enum RequestCommand {
    /// Ask for a temporary raise of a budget that counts for you.
    Create(RequestCreate),
    /// List requests, newest first; a member sees its own.
    List {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// List only requests of this user.
        #[arg(long)]
        user: Option<UserId>,
        /// List only requests in this state.
        #[arg(long, value_parser = ["open", "granted", "declined"])]
        state: Option<String>,
    },
    /// Show a request.
    Show {
        /// Id of the request.
        request: BudgetRequestId,
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
    },
    /// Grant a request: the budget is raised until the raise ends by itself.
    Grant {
        /// Id of the request.
        request: BudgetRequestId,
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Limit while the raise lasts, in credits; omitted: as asked for.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        credits: Option<i64>,
        /// End of the raise, such as 2027-01-31T00:00:00Z; omitted: as asked for.
        #[arg(long, value_parser = instant)]
        until: Option<OffsetDateTime>,
        /// Answer in words, which the member sees.
        #[arg(long, value_name = "TEXT")]
        answer: Option<String>,
    },
    /// Decline a request.
    Decline {
        /// Id of the request.
        request: BudgetRequestId,
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Answer in words, which the member sees.
        #[arg(long, value_name = "TEXT")]
        answer: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct RequestCreate {
    /// Id of the organisation.
    #[arg(long)]
    org: OrgId,
    /// Whose budget: that of the key you call with, yours, your team's or your organisation's.
    #[arg(long, value_parser = ["key", "user", "team", "organisation"])]
    level: String,
    /// Period of the budget.
    #[arg(long, value_parser = ["total", "daily", "weekly", "monthly"])]
    period: String,
    /// Limit you ask for, in credits.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    credits: i64,
    /// End of the raise, such as 2027-01-31T00:00:00Z; at least an hour from now.
    #[arg(long, value_parser = instant)]
    until: OffsetDateTime,
    /// Why you ask.
    #[arg(long)]
    reason: String,
    /// Id of the user that asks; omitted: you.
    #[arg(long)]
    user: Option<UserId>,
}

pub(super) async fn request(session: &Session, command: RequestCommand) -> Result<(), CliError> {
    let all = |org: OrgId| format!("/admin/v1/orgs/{org}/budget-requests");
    match command {
        RequestCommand::Create(new) => {
            let body = json!({
                "level": new.level, "period": new.period, "credits": new.credits, "until": text(new.until),
                "reason": new.reason, "user_id": new.user,
            });
            let made = session.post(&all(new.org), body).await?;
            session.say(&made, named(&made, "request_id"));
        }
        RequestCommand::List { org, user, state } => {
            let query = QueryString::default().add("user_id", user).add("state", state);
            session.list(&query.of(&all(org)), REQUEST).await?;
        }
        RequestCommand::Show { request, org } => {
            session.show(&session.get(&format!("{}/{request}", all(org))).await?, REQUEST);
        }
        RequestCommand::Grant { request, org, credits, until, answer } => {
            let body = json!({"credits": credits, "until": until.map(text), "answer": answer});
            session.show(&session.post(&format!("{}/{request}/grant", all(org)), body).await?, REQUEST);
        }
        RequestCommand::Decline { request, org, answer } => {
            let body = json!({"answer": answer});
            session.show(&session.post(&format!("{}/{request}/decline", all(org)), body).await?, REQUEST);
        }
    }
    Ok(())
}
