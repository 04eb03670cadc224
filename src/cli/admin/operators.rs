//! `tollgate admin operator-token`, `audit-log`, `me`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::holds::show_parts;
use super::{instant, text};
use crate::ids::{OperatorTokenId, OrgId};

const TOKEN: &[Column] = &[
    ("TOKEN", "token_id"),
    ("NAME", "name"),
    ("ROLE", "role"),
    ("CREATED", "created_at"),
    ("EXPIRES", "expires_at"),
    ("REVOKED", "revoked_at"),
];
const LOG: &[Column] = &[
    ("AT", "at"),
    ("ACTOR", "actor"),
    ("FROM", "address"),
    ("ACTION", "action"),
    ("WHAT", "target_id"),
    ("BEFORE", "before"),
    ("AFTER", "after"),
];
const ME: &[Column] = &[
    ("ROLE", "role"),
    ("ORG", "org_id"),
    ("ORG NAME", "org_name"),
    ("TIME ZONE", "time_zone"),
    ("USER", "user_id"),
    ("USER NAME", "user_name"),
    ("TEAM", "team_id"),
    ("KEY", "key_id"),
    ("SUSPENDED", "suspended"),
];
const MY_BUDGETS: &[Column] = &[
    ("BUDGET OF", "level"),
    ("PERIOD", "period"),
    ("LIMIT", "limit"),
    ("USED", "used"),
    ("HELD", "held"),
    ("LEFT", "left"),
    ("RESETS", "resets_at"),
];

const HEALTH: &[Column] = &[
    ("DOUBTS", "doubts"),
    ("OLDEST", "oldest_doubt"),
    ("STOPPED", "stopped_organisations"),
    ("LIVE GATEWAYS", "live_gateways"),
];
const GATEWAY: &[Column] = &[
    ("GATEWAY", "gateway_id"),
    ("STARTED", "started_at"),
    ("LEASE UNTIL", "alive_until"),
    ("LIVE", "live"),
    ("UNANSWERED", "unanswered"),
];

pub(super) async fn health(session: &Session) -> Result<(), CliError> {
    let found = session.get("/admin/v1/health").await?;
    show_parts(session, &found, HEALTH, &["audit", "accounts"]);
    Ok(())
}

pub(super) async fn gateways(session: &Session) -> Result<(), CliError> {
    session.list("/admin/v1/gateways", GATEWAY).await
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Create an operator token. It is shown only once.
    Create {
        /// Name of the token.
        #[arg(long)]
        name: String,
        /// Allow only reading.
        #[arg(long)]
        read_only: bool,
        /// Instant at which the token expires, such as 2027-01-31T00:00:00Z; omitted: never.
        #[arg(long, value_parser = instant)]
        expires: Option<OffsetDateTime>,
    },
    /// List all operator tokens.
    List,
    /// Revoke an operator token, at once and for good.
    Revoke {
        /// Id of the operator token.
        token: OperatorTokenId,
    },
}

pub(super) async fn token(session: &Session, command: TokenCommand) -> Result<(), CliError> {
    const PATH: &str = "/admin/v1/operator-tokens";
    match command {
        TokenCommand::Create { name, read_only, expires } => {
            let role = if read_only { "operator_read" } else { "operator" };
            let body = json!({"name": name, "role": role, "expires_at": expires.map(text)});
            let made = session.post(PATH, body).await?;
            session.say_once(&made, "token_id", "token")?;
        }
        TokenCommand::List => session.list(PATH, TOKEN).await?,
        TokenCommand::Revoke { token } => {
            session.call(Method::DELETE, &format!("{PATH}/{token}"), None).await?;
            session.say(&json!({"token_id": token, "revoked": true}), format_args!("{token} is revoked"));
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// List only changes in this organisation; required for an organisation's admin.
    #[arg(long)]
    org: Option<OrgId>,
    /// List only changes by this actor, as the log names it.
    #[arg(long)]
    actor: Option<String>,
    /// List only changes by this operation, as the log names it.
    #[arg(long)]
    action: Option<String>,
    /// List only changes of the object with this id.
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// List only changes from this instant on, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_parser = instant)]
    since: Option<OffsetDateTime>,
    /// List only changes before this instant.
    #[arg(long, value_parser = instant)]
    until: Option<OffsetDateTime>,
}

pub(super) async fn log(session: &Session, args: LogArgs) -> Result<(), CliError> {
    let path = match args.org {
        Some(org) => format!("/admin/v1/orgs/{org}/audit-log"),
        None => "/admin/v1/audit-log".into(),
    };
    let query = QueryString::default()
        .add("actor", args.actor)
        .add("action", args.action)
        .add("target_id", args.target)
        .add("since", args.since.map(text))
        .add("until", args.until.map(text));
    session.list(&query.of(&path), LOG).await
}

pub(super) async fn me(session: &Session) -> Result<(), CliError> {
    let me: Value = session.get("/admin/v1/me").await?;
    session.show(&me, ME);
    let budgets = me["budgets"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !session.prints_json() && !budgets.is_empty() {
        session.show_all(budgets, MY_BUDGETS);
    }
    Ok(())
}
