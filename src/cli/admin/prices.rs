//! `tollgate admin price`, `price-factor`.

use std::path::PathBuf;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::{book_file, instant, named, text};
use crate::ids::{FactorId, OrgId};

pub(super) const BOOKS: &str = "/admin/v1/price-books";
pub(super) const BOOK: &[Column] = &[
    ("VERSION", "version"),
    ("NAME", "name"),
    ("STATE", "state"),
    ("EFFECTIVE FROM", "effective_from"),
    ("CREATED", "created_at"),
];
const ACTIVATION: &[Column] = &[
    ("VERSION", "version"),
    ("EFFECTIVE FROM", "effective_from"),
    ("BY", "actor"),
    ("AT", "created_at"),
    ("WITHDRAWN", "withdrawn_at"),
];
const CHANGE: &[Column] = &[("TYPE", "task_type"), ("BEFORE", "before"), ("AFTER", "after")];
const OUTCOME: &[Column] = &[
    ("WHAT", "what"),
    ("TASKS", "tasks"),
    ("CHARGED", "charged"),
    ("PRICED", "priced"),
    ("WOULD BE", "would_be_priced"),
    ("DIFFERENCE", "difference"),
    ("ESTIMATED", "estimated"),
    ("REFUSED", "refused"),
];
const FACTOR: &[Column] = &[
    ("FACTOR", "factor_id"),
    ("BASIS POINTS", "factor_bp"),
    ("FROM", "valid_from"),
    ("UNTIL", "valid_until"),
    ("IN FORCE", "active"),
    ("REASON", "reason"),
];

#[derive(Debug, Subcommand)]
pub(super) enum PriceCommand {
    /// List all price books.
    List,
    /// Print a price book in the form that 'price import' reads.
    Show {
        /// Version of the book; omitted: the book in force.
        version: Option<i32>,
    },
    /// Import a price book from a TOML or JSON file. The book is a draft until it is activated.
    Import {
        /// File to read; 'price show' prints one to start from.
        file: PathBuf,
    },
    /// Create a draft that is a copy of another book.
    Copy {
        /// Version of the book to copy.
        version: i32,
        /// Name of the draft.
        #[arg(long)]
        name: String,
    },
    /// Set the price of a task type in a draft.
    Set {
        /// Version of the draft.
        version: i32,
        /// Task type, such as pro-text-to-video.
        task_type: String,
        /// Credits per second of video; with --fixed, credits per task.
        #[arg(value_parser = clap::value_parser!(i64).range(1..=1_000_000_000))]
        credits: i64,
        /// Credits per second of video with sound, if sound has a price of its own.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..=1_000_000_000), conflicts_with = "fixed")]
        with_audio: Option<i64>,
        /// The price is per task, whatever its length.
        #[arg(long)]
        fixed: bool,
    },
    /// Remove a task type from a draft: once the book is in force, creates of that type are refused.
    Unset {
        /// Version of the draft.
        version: i32,
        /// Task type, such as pro-text-to-video.
        task_type: String,
    },
    /// Delete a draft.
    Delete {
        /// Version of the book.
        version: i32,
    },
    /// Show the prices that differ between two books.
    Diff {
        /// Version of the book.
        version: i32,
        /// Version of the book to compare with; omitted: the book in force.
        #[arg(long)]
        against: Option<i32>,
    },
    /// Show what the tasks of the last days would have cost with a price book.
    WhatIf {
        /// Version of the book.
        version: i32,
        /// Number of days to look back.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=90))]
        days: u32,
    },
    /// Put a price book in force, on every gateway within a second.
    Activate {
        /// Version of the book.
        version: i32,
        /// Instant from which the book is in force, such as 2027-01-31T00:00:00Z; omitted: now.
        #[arg(long, value_parser = instant)]
        at: Option<OffsetDateTime>,
    },
    /// Withdraw a scheduled activation: the book is a draft again.
    Unschedule {
        /// Version of the book.
        version: i32,
    },
    /// Put the previous price book in force again.
    Rollback {
        /// Roll back only if this version is in force.
        #[arg(long)]
        from: Option<i32>,
    },
    /// List which price book was in force when.
    History,
}

#[derive(Debug, Subcommand)]
pub(super) enum FactorCommand {
    /// List the price factors of an organisation.
    List {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
    },
    /// Create a price factor of an organisation for a time.
    Create {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// What the organisation pays of the list price, in basis points: 10000 is the list price.
        #[arg(long, value_parser = clap::value_parser!(i32).range(0..=1_000_000), value_name = "BP")]
        factor: i32,
        /// Begin of the factor, such as 2027-01-31T00:00:00Z; omitted: now.
        #[arg(long, value_parser = instant)]
        from: Option<OffsetDateTime>,
        /// End of the factor, which it does not include; omitted: open.
        #[arg(long, value_parser = instant)]
        until: Option<OffsetDateTime>,
        /// Reason, which is kept with the factor.
        #[arg(long)]
        reason: String,
    },
    /// End a price factor; one that has not begun is withdrawn.
    End {
        /// Id of the price factor.
        factor: FactorId,
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Instant at which the factor ends; omitted: now.
        #[arg(long, value_parser = instant)]
        at: Option<OffsetDateTime>,
    },
}

pub(super) async fn price(session: &Session, command: PriceCommand) -> Result<(), CliError> {
    let of = |version: i32| format!("{BOOKS}/{version}");
    match command {
        PriceCommand::List => session.list(BOOKS, BOOK).await?,
        PriceCommand::Show { version } => {
            let path = version.map_or_else(|| format!("{BOOKS}/in-force"), of);
            book_file::show(session, &session.get(&path).await?)?;
        }
        PriceCommand::Import { file } => book_file::import(session, &file).await?,
        PriceCommand::Copy { version, name } => {
            let made = session.post(BOOKS, json!({"name": name, "copy_of": version})).await?;
            session.say(&made, format!("version {} is a draft", made["version"]));
        }
        PriceCommand::Set { version, task_type, credits, with_audio, fixed } => {
            let path = format!("{}/prices/{}", of(version), escaped(&task_type));
            let book = session.call(Method::PUT, &path, Some(&tariff(credits, with_audio, fixed))).await?;
            session.say(&book, format_args!("version {version}: the price of {task_type} is set"));
        }
        PriceCommand::Unset { version, task_type } => {
            let path = format!("{}/prices/{}", of(version), escaped(&task_type));
            let book = session.call(Method::DELETE, &path, None).await?;
            session.say(&book, format_args!("version {version}: {task_type} is removed"));
        }
        PriceCommand::Delete { version } => {
            session.call(Method::DELETE, &of(version), None).await?;
            session.say(
                &json!({"version": version, "deleted": true}),
                format_args!("version {version} is deleted"),
            );
        }
        PriceCommand::Diff { version, against } => {
            let path = QueryString::default().add("against", against).of(&format!("{}/diff", of(version)));
            let compared = session.get(&path).await?;
            if session.prints_json() {
                session.show(&compared, CHANGE);
            } else {
                session.show_all(compared["changes"].as_array().map_or(&[], Vec::as_slice), CHANGE);
            }
        }
        PriceCommand::WhatIf { version, days } => {
            let path = QueryString::default().add("days", Some(days)).of(&format!("{}/what-if", of(version)));
            let told = session.get(&path).await?;
            if session.prints_json() { session.show(&told, OUTCOME) } else { show_outcomes(session, &told) }
        }
        PriceCommand::Activate { version, at } => {
            let body = json!({"at": at.map(text)});
            let book = session.post(&format!("{}/activate", of(version)), body).await?;
            let from = at.map(|at| format!(" from {}", text(at))).unwrap_or_default();
            session.say(&book, format!("version {version} is in force{from}"));
        }
        PriceCommand::Unschedule { version } => {
            let book = session.call(Method::POST, &format!("{}/unschedule", of(version)), None).await?;
            session.say(&book, format!("version {version} is a draft again"));
        }
        PriceCommand::Rollback { from } => {
            let book = session.post(&format!("{BOOKS}/rollback"), json!({"from": from})).await?;
            session.say(&book, format!("version {} is in force again", book["version"]));
        }
        PriceCommand::History => session.list("/admin/v1/price-activations", ACTIVATION).await?,
    }
    Ok(())
}

pub(super) async fn factor(session: &Session, command: FactorCommand) -> Result<(), CliError> {
    let of = |org: OrgId| format!("/admin/v1/orgs/{org}/price-factors");
    match command {
        FactorCommand::List { org } => session.list(&of(org), FACTOR).await?,
        FactorCommand::Create { org, factor, from, until, reason } => {
            let body = json!({
                "factor_bp": factor, "valid_from": from.map(text), "valid_until": until.map(text), "reason": reason,
            });
            let made = session.post(&of(org), body).await?;
            session.say(&made, named(&made, "factor_id"));
        }
        FactorCommand::End { factor, org, at } => {
            session.post(&format!("{}/{factor}/end", of(org)), json!({"at": at.map(text)})).await?;
            session.say(&json!({"factor_id": factor, "ended": true}), format_args!("{factor} ends"));
        }
    }
    Ok(())
}

/// Percent-encodes `part` as a segment of a path.
fn escaped(part: &str) -> String {
    url::form_urlencoded::byte_serialize(part.as_bytes()).collect()
}

/// Prints the total, the organisations and the task types in one table.
fn show_outcomes(session: &Session, told: &Value) {
    let line = |what: &Value, outcome: &Value| {
        let mut line = outcome.clone();
        line["what"] = what.clone();
        line
    };
    let mut lines = vec![line(&json!("all"), &told["total"])];
    for (list, name) in [("orgs", "name"), ("task_types", "task_type")] {
        lines.extend(told[list].as_array().into_iter().flatten().map(|one| line(&one[name], one)));
    }
    session.show_all(&lines, OUTCOME);
}

/// The price of a task type, as the management API takes it.
fn tariff(credits: i64, with_audio: Option<i64>, fixed: bool) -> Value {
    match (fixed, with_audio) {
        (true, _) => json!({"unit": "fixed", "credits": credits}),
        (false, None) => json!({"unit": "second", "credits": credits}),
        (false, audio) => json!({"unit": "second", "credits": credits, "credits_with_audio": audio}),
    }
}
