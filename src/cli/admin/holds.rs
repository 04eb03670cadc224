//! `tollgate admin holds`, `losses` and `drift`: running tasks, doubts, and differences from the vendor's figures.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::super::{CliError, output};
use super::client::{Column, QueryString, Session};
use crate::ids::{HoldId, OrgId, UserId};

#[derive(Debug, Subcommand)]
pub(super) enum HoldsCommand {
    /// List the tasks that go on, the oldest first; those in doubt are not among them.
    Running {
        /// List only tasks of this organisation.
        #[arg(long)]
        org: Option<OrgId>,
    },
    /// List the tasks in doubt, oldest doubt first.
    InDoubt {
        /// List only tasks of this organisation.
        #[arg(long)]
        org: Option<OrgId>,
    },
    /// Show a short excerpt of the request of an unfinished task. That you read it is in the audit log.
    Request {
        /// Id of the hold, which is the caller's reference.
        hold: HoldId,
    },
    /// Show a hold: its state, what an operator recorded of it, and digests of its request.
    Show {
        /// Id of the hold, which is the caller's reference, or the vendor's id of its task.
        id: String,
    },
    /// Resolve a doubt: the vendor took the task under this id. The vendor is asked, and type and request must be the same;
    /// then the task is polled to its end, which charges it. If they are not the same, both sides are printed.
    Settle {
        /// Id of the hold, which is the caller's reference.
        hold: HoldId,
        /// Id that the vendor gave the task.
        #[arg(long, value_name = "ID")]
        task_id: String,
        /// Credits that the vendor consumed, if its pages show them: they are compared with what the vendor reports, and charged
        /// if the vendor never reports the end of the task.
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..), value_name = "CREDITS")]
        credits: Option<i64>,
        /// How you know this; kept with the task and in the audit log.
        #[arg(long)]
        reason: String,
        /// Record it although it does not fit, or although the vendor cannot be asked. This is marked on the hold and in the
        /// audit log.
        #[arg(long)]
        force: bool,
        /// Idempotency key: repeating the command with the same key within 72 hours has no further effect.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
    /// Take back what 'settle' or 'adopt' recorded, as long as the vendor has not reported the end of the task.
    TakeBack {
        /// Id of the hold, which is the caller's reference.
        hold: HoldId,
        /// What was wrong; kept with the task and in the audit log.
        #[arg(long)]
        reason: String,
        /// Idempotency key: repeating the command with the same key within 72 hours has no further effect.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
    /// Adopt a task that the vendor runs and no hold knows, such as after a restore. The vendor is asked, and the task is
    /// charged to the organisation when the vendor reports its end.
    Adopt {
        /// Organisation that the task is charged to.
        #[arg(long)]
        org: OrgId,
        /// User whom the task is counted for.
        #[arg(long)]
        user: UserId,
        /// Backend of the vendor: kling-3.0 or kling-o3.
        #[arg(long)]
        backend: String,
        /// Account with the vendor; omitted: all accounts of the backend are asked.
        #[arg(long)]
        account: Option<String>,
        /// Id that the vendor gave the task.
        #[arg(long, value_name = "ID")]
        task_id: String,
        /// How you know whose task it is; kept with the task and in the audit log.
        #[arg(long)]
        reason: String,
        /// Adopt the task although a task in doubt has the same type and prompt. This is marked on the hold and in the audit
        /// log.
        #[arg(long)]
        force: bool,
        /// Idempotency key: repeating the command with the same key within 72 hours has no further effect.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
    /// Resolve a doubt: nothing is owed for the task. Gives its credits back. If the vendor's id of the task is known, the
    /// vendor is asked first, and what it runs or has finished is not released.
    Release {
        /// Id of the hold, which is the caller's reference.
        hold: HoldId,
        /// How you know this; kept with the task and in the audit log.
        #[arg(long)]
        reason: String,
        /// Release it although the vendor has the task, or although the vendor cannot be asked. This is marked in the audit log.
        #[arg(long)]
        force: bool,
        /// Idempotency key: repeating the command with the same key within 72 hours has no further effect.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct DaysArgs {
    /// Number of days to look back.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..), value_name = "DAYS")]
    days: u32,
}

const DOUBT: &[Column] = &[
    ("HOLD", "hold_id"),
    ("ORG", "org_id"),
    ("NAME", "org"),
    ("TYPE", "task_type"),
    ("CREDITS", "credits"),
    ("BACKEND", "backend"),
    ("ACCOUNT", "account"),
    ("VENDOR'S TASK", "upstream_task"),
    ("SINCE", "since"),
    ("REASON", "reason"),
];
const RUNNING: &[Column] = &[
    ("HOLD", "hold_id"),
    ("CREATED", "created_at"),
    ("STATE", "state"),
    ("ORG", "org_id"),
    ("NAME", "org"),
    ("TYPE", "task_type"),
    ("CREDITS", "credits"),
    ("ACCOUNT", "account"),
    ("VENDOR'S TASK", "upstream_task"),
    ("POLLS", "polls"),
];
const HOLD: &[Column] = &[
    ("HOLD", "hold_id"),
    ("ORG", "org_id"),
    ("NAME", "org"),
    ("USER", "user_id"),
    ("STATE", "state"),
    ("TYPE", "task_type"),
    ("CREDITS", "credits"),
    ("CHARGED", "charged"),
    ("ACCOUNT", "account"),
    ("VENDOR'S TASK", "upstream_task"),
    ("CREATED", "created_at"),
    ("REASON", "reason"),
];
const ADOPTED: &[Column] = &[
    ("HOLD", "hold_id"),
    ("ORG", "org_id"),
    ("USER", "user_id"),
    ("VENDOR'S TASK", "task_id"),
    ("TYPE", "task_type"),
    ("HELD", "credits"),
];
const REQUEST: &[Column] = &[("HOLD", "hold_id"), ("ORG", "org_id"), ("STATE", "state")];
const LOSS: &[Column] = &[
    ("BOOKED", "created_at"),
    ("HOLD", "hold_id"),
    ("ORG", "org_id"),
    ("ACCOUNT", "account"),
    ("TYPE", "task_type"),
    ("CREDITS", "credits"),
    ("ONLY POSSIBLY", "possible"),
    ("REASON", "reason"),
];
const BY_ACCOUNT: &[Column] = &[
    ("ACCOUNT", "account"),
    ("TASKS", "tasks"),
    ("CHARGED", "charged"),
    ("LOST", "lost"),
    ("POSSIBLY LOST", "possibly_lost"),
    ("REPORTED", "reported"),
    ("DRIFT", "drift"),
    ("DIFFERING", "differing"),
];
const BY_TASK: &[Column] = &[
    ("ENDED", "ended_at"),
    ("HOLD", "hold_id"),
    ("VENDOR'S TASK", "upstream_task"),
    ("TYPE", "task_type"),
    ("STATE", "state"),
    ("LIST", "list_price"),
    ("REPORTED", "reported"),
    ("DRIFT", "drift"),
    ("REASON", "reason"),
];
const BY_PRICE: &[Column] = &[
    ("TYPE", "task_type"),
    ("BOOK", "price_book"),
    ("TASKS", "tasks"),
    ("LISTED", "listed"),
    ("CONSUMED", "consumed"),
];

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) async fn run(session: &Session, command: HoldsCommand) -> Result<(), CliError> {
    match command {
        HoldsCommand::Running { org } => {
            let path = QueryString::default().add("org_id", org).of("/admin/v1/holds/running");
            session.list(&path, RUNNING).await?;
        }
        HoldsCommand::InDoubt { org } => {
            let path = QueryString::default().add("org_id", org).of("/admin/v1/holds/in-doubt");
            session.list(&path, DOUBT).await?;
        }
        HoldsCommand::Request { hold } => {
            let path = format!("/admin/v1/holds/{hold}/read-request");
            let found = session.call(Method::POST, &path, None).await?;
            show_parts(session, &found, REQUEST, &["excerpt", "digests"]);
        }
        HoldsCommand::Show { id } => {
            let id = percent_encoding::utf8_percent_encode(&id, percent_encoding::NON_ALPHANUMERIC);
            // The gateway takes ids as they are written, `_` and `-` included.
            let id = id.to_string().replace("%5F", "_").replace("%2D", "-");
            let found = session.get(&format!("/admin/v1/holds/{id}")).await?;
            show_parts(session, &found, HOLD, &["by_hand", "digests"]);
        }
        HoldsCommand::Adopt { org, user, backend, account, task_id, reason, force, idempotency_key } => {
            let body = json!({
                "user_id": user, "backend": backend, "account": account, "task_id": task_id, "reason": reason, "force": force,
            });
            let path = format!("/admin/v1/orgs/{org}/adopt-task");
            let adopted = session.move_money(Method::POST, &path, idempotency_key, Some(body)).await?;
            session.show(&adopted, ADOPTED);
        }
        HoldsCommand::Settle { hold, task_id, credits, reason, force, idempotency_key } => {
            let body = json!({"task_id": task_id, "credits": credits, "reason": reason, "force": force});
            resolve(session, hold, "settle", idempotency_key, body).await?;
        }
        HoldsCommand::TakeBack { hold, reason, idempotency_key } => {
            let body = json!({"reason": reason});
            resolve(session, hold, "take-back", idempotency_key, body).await?;
        }
        HoldsCommand::Release { hold, reason, force, idempotency_key } => {
            let body =
                if force { json!({"reason": reason, "force": true}) } else { json!({"reason": reason}) };
            resolve(session, hold, "release", idempotency_key, body).await?;
        }
    }
    Ok(())
}

/// Takes a step with a hold by an operator's word, and says what has become of it.
async fn resolve(
    session: &Session,
    hold: HoldId,
    step: &str,
    key: Option<String>,
    body: Value,
) -> Result<(), CliError> {
    let path = format!("/admin/v1/holds/{hold}/{step}");
    let resolved = session.move_money(Method::POST, &path, key, Some(body)).await?;
    let state = resolved["state"].as_str();
    if step == "take-back" {
        let state = state.unwrap_or_default();
        session.say(&resolved, format_args!("{hold}: taken back; the task is {state}"));
        return Ok(());
    }
    let said = match state {
        Some("POLLED") => "is polled until the vendor reports its end",
        Some("SETTLED") => "is charged",
        Some("RELEASED") => "is released",
        _ => "is resolved in a way that this version does not know",
    };
    session.say(&resolved, format_args!("{hold} {said}"));
    Ok(())
}

/// Prints a table of one line and, below it, the parts that are objects; or all of it as JSON.
pub(super) fn show_parts(session: &Session, found: &Value, columns: &[Column], parts: &[&str]) {
    session.show(found, columns);
    if session.prints_json() {
        return;
    }
    for name in parts {
        output::line(format_args!("\n{name}:\n{:#}", found[*name]));
    }
}

pub(super) async fn losses(session: &Session, args: DaysArgs) -> Result<(), CliError> {
    session.list(&format!("/admin/v1/losses?days={}", args.days), LOSS).await
}

pub(super) async fn drift(session: &Session, args: DaysArgs) -> Result<(), CliError> {
    let drift = session.get(&format!("/admin/v1/drift?days={}", args.days)).await?;
    if session.prints_json() {
        session.show(&drift, &[]);
        return Ok(());
    }
    session.show_all(array(&drift["accounts"]), BY_ACCOUNT);
    for (title, field, columns) in [
        ("tasks for which the vendor reported another figure than was booked", "tasks", BY_TASK),
        ("prices that disagree with the book", "prices", BY_PRICE),
    ] {
        if !array(&drift[field]).is_empty() {
            output::line(format_args!("\n{title}:"));
            session.show_all(array(&drift[field]), columns);
        }
    }
    Ok(())
}
