//! `tollgate admin credit`, `usage`, `statement`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::super::output;
use super::client::{Column, QueryString, Session};
use super::{instant, named, text};
use crate::ids::{KeyId, OrgId, TeamId, UserId};

const CREDITS: &[Column] = &[
    ("AVAILABLE", "available"),
    ("HELD", "held"),
    ("CONSUMED", "consumed"),
    ("OVERDRAFT", "overdraft"),
    ("LOW BELOW", "low_threshold"),
    ("LOW", "low"),
    ("PER DAY", "runway.per_day"),
    ("DAYS LEFT", "runway.days"),
    ("UNTIL", "runway.until"),
];
const EXPOSURE: &[Column] = &[
    ("EXPOSED SINCE", "since"),
    ("LOST", "lost"),
    ("IN DOUBT", "in_doubt"),
    ("OVERRUN", "overrun"),
    ("LIMIT", "limit"),
    ("STOPPED AT", "stopped_at"),
];
const EXPIRING: &[Column] = &[("GRANT", "entry_id"), ("LEFT", "left"), ("RUNS OUT", "expires_at")];
const ENTRY: &[Column] = &[
    ("AT", "created_at"),
    ("ENTRY", "entry_id"),
    ("KIND", "kind"),
    ("CREDITS", "credits"),
    ("TASK", "task_id"),
    ("REASON", "reason"),
    ("REFERENCE", "external_ref"),
    ("ACTOR", "actor"),
];
const LINE: &[Column] = &[
    ("AT", "created_at"),
    ("KIND", "kind"),
    ("CREDITS", "credits"),
    ("BALANCE", "balance"),
    ("TASK", "task_id"),
    ("TYPE", "task_type"),
    ("REASON", "reason"),
    ("REFERENCE", "external_ref"),
];
const TOTAL: &[Column] = &[("KIND", "kind"), ("LINES", "lines"), ("CREDITS", "credits")];
const SUMS: &[Column] =
    &[("TASKS", "tasks"), ("CHARGED", "charged"), ("CORRECTED", "corrected"), ("CONSUMED", "consumed")];

#[derive(Debug, Subcommand)]
pub(super) enum CreditCommand {
    /// Show the balance of an organisation, how long it will last, what its tasks cost the platform today, and which grants
    /// expire.
    Show {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
    },
    /// Grant credits to an organisation.
    Grant {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Number of credits.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        credits: i64,
        /// Instant at which the unspent rest expires, such as 2027-01-31T00:00:00Z; omitted: never.
        #[arg(long, value_parser = instant)]
        expires: Option<OffsetDateTime>,
        #[command(flatten)]
        why: Why,
    },
    /// Correct an organisation's balance, up or down.
    Adjust {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Number of credits to add; negative to subtract.
        #[arg(long, allow_negative_numbers = true)]
        credits: i64,
        #[command(flatten)]
        why: Why,
    },
    /// Move credits from one organisation to another.
    Transfer {
        /// Id of the organisation that gives credits.
        #[arg(long)]
        from: OrgId,
        /// Id of the organisation that gets them.
        #[arg(long)]
        to: OrgId,
        /// Number of credits.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        credits: i64,
        #[command(flatten)]
        why: Why,
    },
    /// Set how far below zero the balance of an organisation may go.
    Overdraft {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Number of credits below zero; 0: no overdraft.
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
        credits: i64,
        /// Idempotency key: repeating the command with the same key within 72 hours has no further effect.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
    /// Set the low-balance threshold of an organisation.
    Low {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Warn when available credits fall below this; omitted: never warn.
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
        below: Option<i64>,
    },
    /// Let the creates of an organisation go on that were stopped because of its exposure, and count that from 0 again.
    Resume {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// What was found and done, which is kept in the audit log.
        #[arg(long)]
        reason: String,
    },
    /// List the ledger entries of an organisation, newest first.
    Entries {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// List only entries of this kind: grant, adjust, transfer, expire, consume or correct.
        #[arg(long)]
        kind: Option<String>,
        /// List only entries with this reference.
        #[arg(long)]
        reference: Option<String>,
        /// List only entries from this instant on, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_parser = instant)]
        since: Option<OffsetDateTime>,
        /// List only entries before this instant.
        #[arg(long, value_parser = instant)]
        until: Option<OffsetDateTime>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Why {
    /// Reason, which is kept with the entry.
    #[arg(long)]
    reason: String,
    /// Reference of another system, such as the number of an invoice.
    #[arg(long)]
    reference: Option<String>,
    /// Idempotency key: repeating the command with the same key within 72 hours has no further effect.
    #[arg(long)]
    idempotency_key: Option<String>,
}

impl Why {
    /// Posts `fields` with reason, reference and idempotency key.
    async fn post(self, session: &Session, path: &str, fields: Value) -> Result<Value, CliError> {
        let mut body = Map::new();
        body.extend(fields.as_object().cloned().unwrap_or_default());
        body.insert("reason".into(), self.reason.into());
        if let Some(reference) = self.reference {
            body.insert("external_ref".into(), reference.into());
        }
        session.move_money(Method::POST, path, self.idempotency_key, Some(body.into())).await
    }
}

pub(super) async fn credit(session: &Session, command: CreditCommand) -> Result<(), CliError> {
    let posted = |done: &Value| format!("{}: {} available", named(done, "entry_id"), done["available"]);
    match command {
        CreditCommand::Show { org } => show(session, &session.get(&path(org, "credits")).await?),
        CreditCommand::Grant { org, credits, expires, why } => {
            let mut fields = json!({"credits": credits});
            if let Some(expires) = expires {
                fields["expires_at"] = text(expires).into();
            }
            let done = why.post(session, &path(org, "credits/grants"), fields).await?;
            session.say(&done, posted(&done));
        }
        CreditCommand::Adjust { org, credits, why } => {
            let fields = json!({"credits": credits});
            let done = why.post(session, &path(org, "credits/adjustments"), fields).await?;
            session.say(&done, posted(&done));
        }
        CreditCommand::Transfer { from, to, credits, why } => {
            let fields = json!({"from_org": from, "to_org": to, "credits": credits});
            let done = why.post(session, "/admin/v1/transfers", fields).await?;
            let sentence = format!(
                "{from}: {} available\n{to}: {} available",
                done["from_available"], done["to_available"]
            );
            session.say(&done, sentence);
        }
        CreditCommand::Overdraft { org, credits, idempotency_key } => {
            let body = json!({"overdraft": credits});
            let path = path(org, "credits/overdraft");
            let done = session.move_money(Method::PUT, &path, idempotency_key, Some(body)).await?;
            session.say(&done, format!("{org}: overdraft of {} credits", done["overdraft"]));
        }
        CreditCommand::Low { org, below } => {
            let patch = json!({"low_threshold": below});
            show(session, &session.patch(&path(org, "credits"), patch).await?);
        }
        CreditCommand::Resume { org, reason } => {
            let body = json!({"reason": reason});
            show(session, &session.post(&path(org, "credits/resume"), body).await?);
        }
        CreditCommand::Entries { org, kind, reference, since, until } => {
            let query = QueryString::default().add("kind", kind).add("external_ref", reference);
            let query = query.add("since", since.map(text)).add("until", until.map(text));
            session.list(&query.of(&path(org, "entries")), ENTRY).await?;
        }
    }
    Ok(())
}

fn path(org: OrgId, what: &str) -> String {
    format!("/admin/v1/orgs/{org}/{what}")
}

fn show(session: &Session, credits: &Value) {
    session.show(credits, CREDITS);
    if !session.prints_json() {
        output::line("");
        session.show(&credits["exposure"], EXPOSURE);
    }
    if let Some(expiring) = credits["expiring"].as_array().filter(|list| !list.is_empty())
        && !session.prints_json()
    {
        output::line("");
        session.show_all(expiring, EXPIRING);
    }
}

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// Id of the organisation; omitted: all organisations, for operators only.
    #[arg(long)]
    org: Option<OrgId>,
    /// First UTC day, such as 2026-11-01; omitted: thirty days up to --to.
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// Last UTC day; omitted: today.
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// Group by these, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "WHAT", value_parser = ["org", "day", "team", "user", "key", "task_type", "label"])]
    by: Vec<String>,
    /// Name of the label that `--by label` groups by, such as project; needs --org, and takes 31 days at most.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Count only tasks of users who were in this team.
    #[arg(long)]
    team: Option<TeamId>,
    /// Count only tasks of this user.
    #[arg(long)]
    user: Option<UserId>,
    /// Count only tasks created with this key.
    #[arg(long)]
    key: Option<KeyId>,
    /// Count only tasks of this type.
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<String>,
    /// Show only so many groups, those that consumed most, with their names, and all others as one line.
    #[arg(long, conflicts_with = "csv")]
    top: Option<u8>,
    /// By whose clock days begin: that of UTC, or that of the organisation's time zone.
    #[arg(long, value_parser = ["utc", "org"])]
    clock: Option<String>,
    /// Print CSV instead of a table.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Begin the CSV with a byte order mark, by which Excel knows that it is UTF-8.
    #[arg(long, requires = "csv")]
    bom: bool,
}

pub(super) async fn usage(session: &Session, args: UsageArgs) -> Result<(), CliError> {
    let base = args.org.map_or_else(|| "/admin/v1/usage".to_owned(), |org| path(org, "usage"));
    let by = (!args.by.is_empty()).then(|| args.by.join(","));
    let query = QueryString::default().add("from", args.from).add("to", args.to).add("group_by", by);
    let query = query.add("team_id", args.team).add("user_id", args.user).add("key_id", args.key);
    let query = query
        .add("label", args.label)
        .add("task_type", args.task_type)
        .add("top", args.top)
        .add("clock", args.clock)
        .add("format", args.csv.then_some("csv"))
        .add("bom", args.bom.then_some("true"));
    let asked = query.of(&base);
    if args.csv {
        return print(session, &asked).await;
    }
    let columns = args.by.iter().map(|by| match by.as_str() {
        "org" => ("ORG", "org_id"),
        "day" => ("DAY", "day"),
        "team" => ("TEAM", "team_id"),
        "user" => ("USER", "user_id"),
        "key" => ("KEY", "key_id"),
        "label" => ("LABEL", "label"),
        _ => ("TYPE", "task_type"),
    });
    let name = args.top.map(|_| ("NAME", "name"));
    let columns: Vec<Column> = columns.chain(name).chain(SUMS.iter().copied()).collect();
    session.list(&asked, &columns).await
}

#[derive(Debug, Args)]
pub(super) struct StatementArgs {
    /// Id of the organisation.
    #[arg(long)]
    org: OrgId,
    /// Month in the time zone of the organisation, such as 2026-11.
    #[arg(long)]
    month: String,
    /// Print CSV instead of a table.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Begin the CSV with a byte order mark, by which Excel knows that it is UTF-8.
    #[arg(long, requires = "csv")]
    bom: bool,
}

pub(super) async fn statement(session: &Session, args: StatementArgs) -> Result<(), CliError> {
    let month: String = url::form_urlencoded::byte_serialize(args.month.as_bytes()).collect();
    let path = path(args.org, &format!("statements/{month}"));
    if args.csv {
        return print(session, &format!("{path}?format=csv{}", if args.bom { "&bom=true" } else { "" }))
            .await;
    }
    let mut statement = session.get(&format!("{path}?limit=1")).await?;
    let lines = session.items(&path).await?;
    if session.prints_json() {
        if let Some(fields) = statement.as_object_mut() {
            fields.remove("next_cursor");
            fields.insert("items".into(), lines.into());
        }
        output::json(&statement);
        return Ok(());
    }
    let (org, zone) = (named(&statement, "org_name"), named(&statement, "time_zone"));
    output::line(format_args!("{org}: {} ({zone})", args.month));
    output::line(format_args!("opening balance: {}\n", statement["opening"]));
    session.show_all(&lines, LINE);
    output::line("");
    session.show_all(statement["totals"].as_array().map_or(&[], Vec::as_slice), TOTAL);
    output::line(format_args!("\nclosing balance: {}", statement["closing"]));
    Ok(())
}

/// Prints the body of an answer as it is.
async fn print(session: &Session, path: &str) -> Result<(), CliError> {
    let table = session.send(Method::GET, path, &[], None).await?;
    output::raw(String::from_utf8_lossy(&table));
    Ok(())
}
