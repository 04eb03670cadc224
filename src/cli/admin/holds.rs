//! `tollgate admin holds`, `losses` and `drift`: what needs an operator's eye.

use clap::{Args, Subcommand};
use serde_json::json;

use super::super::CliError;
use super::super::output::{json, table};
use super::{non_empty, text};
use crate::credits::Credits;
use crate::ids::{HoldId, OrgId};
use crate::ledger::{Database, Resolution};

#[derive(Debug, Subcommand)]
pub(super) enum HoldsCommand {
    /// List the tasks in doubt, the oldest doubt first.
    InDoubt {
        /// Of this organisation only.
        #[arg(long)]
        org: Option<OrgId>,
    },
    /// The vendor did take this task: charge it, or let it be polled to its end.
    Settle {
        /// Which: the reference of the caller.
        hold: HoldId,
        /// The vendor's id of the task.
        #[arg(long, value_name = "ID")]
        task_id: String,
        /// What the vendor consumed. Left out (better, while the vendor knows the task): it is asked until the task has
        /// ended, and its tenant gets the result.
        #[arg(long, value_parser = clap::value_parser!(i64).range(0..), value_name = "CREDITS")]
        credits: Option<i64>,
        /// How you know; kept with the task.
        #[arg(long)]
        reason: String,
    },
    /// Nothing is owed for this task: give its credits back.
    Release {
        /// Which: the reference of the caller.
        hold: HoldId,
        /// How you know; kept with the task.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct DaysArgs {
    /// How far back to look.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..), value_name = "DAYS")]
    days: u32,
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) async fn run(database: &Database, command: HoldsCommand, as_json: bool) -> Result<(), CliError> {
    let (hold, resolution, reason) = match command {
        HoldsCommand::InDoubt { org } => return in_doubt(database, org, as_json).await,
        HoldsCommand::Settle { hold, task_id, credits, reason } => {
            let usable = (1..=255).contains(&task_id.len()) && task_id.bytes().all(|b| b.is_ascii_graphic());
            if !usable {
                return Err(CliError::Usage("--task-id must be 1 to 255 visible ASCII characters".into()));
            }
            let task = task_id.into();
            let resolution = match credits {
                Some(consumed) => Resolution::Succeeded { task, consumed: Credits::new(consumed) },
                None => Resolution::Taken { task },
            };
            (hold, resolution, reason)
        }
        HoldsCommand::Release { hold, reason } => (hold, Resolution::NotOwed, reason),
    };
    let reason = format!("cli: {}", non_empty(&reason, "the reason")?);
    database.resolve(hold, resolution.clone(), &reason).await?;
    let (state, said) = match resolution {
        Resolution::Taken { .. } => ("POLLED", "is polled until the vendor tells its end"),
        Resolution::Succeeded { .. } => ("SETTLED", "is charged"),
        Resolution::NotOwed => ("RELEASED", "is released"),
    };
    if as_json {
        json(&json!({ "hold_id": hold, "state": state }))
    } else {
        println!("{hold} {said}")
    }
    Ok(())
}

async fn in_doubt(database: &Database, org: Option<OrgId>, as_json: bool) -> Result<(), CliError> {
    let doubts = database.doubts(org).await?;
    if as_json {
        json(&doubts);
        return Ok(());
    }
    let header = ["HOLD", "ORG", "TYPE", "CREDITS", "ACCOUNT", "VENDOR'S TASK", "SINCE", "REASON"];
    let rows = doubts.into_iter().map(|doubt| {
        vec![
            doubt.hold_id.to_string(),
            format!("{} ({})", doubt.org_id, doubt.org),
            doubt.task_type,
            doubt.credits.to_string(),
            format!("{}/{}", doubt.backend, doubt.account),
            or_dash(doubt.upstream_task),
            text(doubt.since),
            or_dash(doubt.reason),
        ]
    });
    table(&header, &rows.collect::<Vec<_>>());
    Ok(())
}

pub(super) async fn losses(database: &Database, args: DaysArgs, as_json: bool) -> Result<(), CliError> {
    let losses = database.losses(args.days).await?;
    if as_json {
        json(&losses);
        return Ok(());
    }
    let header = ["BOOKED", "HOLD", "ORG", "ACCOUNT", "TYPE", "CREDITS", "LOST", "REASON"];
    let rows = losses.into_iter().map(|loss| {
        vec![
            text(loss.created_at),
            loss.hold_id.to_string(),
            loss.org_id.to_string(),
            loss.account,
            loss.task_type,
            loss.credits.to_string(),
            if loss.possible { "possibly" } else { "surely" }.to_owned(),
            loss.reason,
        ]
    });
    table(&header, &rows.collect::<Vec<_>>());
    Ok(())
}

pub(super) async fn drift(database: &Database, args: DaysArgs, as_json: bool) -> Result<(), CliError> {
    let drift = database.drift(args.days).await?;
    if as_json {
        json(&drift);
        return Ok(());
    }
    let header = ["ACCOUNT", "TASKS", "CHARGED", "LOST", "POSSIBLY LOST", "REPORTED", "DRIFT", "DIFFERING"];
    let rows = drift.accounts.into_iter().map(|account| {
        vec![
            account.account,
            account.tasks.to_string(),
            account.charged.to_string(),
            account.lost.to_string(),
            account.possibly_lost.to_string(),
            account.reported.to_string(),
            account.drift.to_string(),
            account.differing.to_string(),
        ]
    });
    table(&header, &rows.collect::<Vec<_>>());
    if !drift.tasks.is_empty() {
        println!("\ntasks for which the vendor reported another figure than was booked:");
        let header =
            ["ENDED", "HOLD", "VENDOR'S TASK", "TYPE", "STATE", "LIST", "REPORTED", "DRIFT", "REASON"];
        let rows = drift.tasks.into_iter().map(|task| {
            vec![
                text(task.ended_at),
                task.hold_id.to_string(),
                or_dash(task.upstream_task),
                task.task_type,
                task.state,
                task.list_price.to_string(),
                or_dash(task.reported),
                task.drift.to_string(),
                or_dash(task.reason),
            ]
        });
        table(&header, &rows.collect::<Vec<_>>());
    }
    if !drift.prices.is_empty() {
        println!("\nprices that disagree with the book:");
        let header = ["TYPE", "BOOK", "TASKS", "LISTED", "CONSUMED"];
        let rows = drift.prices.into_iter().map(|price| {
            vec![
                price.task_type,
                price.price_book.to_string(),
                price.tasks.to_string(),
                price.listed.to_string(),
                price.consumed.to_string(),
            ]
        });
        table(&header, &rows.collect::<Vec<_>>());
    }
    Ok(())
}
