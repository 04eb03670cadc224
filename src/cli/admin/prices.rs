//! `tollgate admin price`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;
use figment::Figment;
use figment::providers::{Format, Json, Toml};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::super::CliError;
use super::super::output::{json, table};
use super::{instant, text};
use crate::ledger::Database;
use crate::pricing::{BookVersion, Tariff};

#[derive(Debug, Subcommand)]
pub(super) enum PriceCommand {
    /// List all books.
    List,
    /// Print a book in the form that import reads; the one in force if none is named.
    Show {
        /// Which version.
        version: Option<i32>,
    },
    /// Read a book from a TOML or JSON file. It is a draft until it is activated.
    Import {
        /// The file; 'price show' prints one to start from.
        file: PathBuf,
    },
    /// Put a book in force on every running gateway, within a second.
    Activate {
        /// Which version.
        version: i32,
        /// From this instant on; now if left out.
        #[arg(long, value_parser = instant)]
        at: Option<OffsetDateTime>,
    },
}

/// A book as a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BookFile {
    name: String,
    prices: BTreeMap<String, Tariff>,
}

pub(super) async fn run(database: &Database, command: PriceCommand, as_json: bool) -> Result<(), CliError> {
    match command {
        PriceCommand::List => {
            let books = database.books().await?;
            if as_json {
                json(&books);
                return Ok(());
            }
            let row = |book: &crate::ledger::BookInfo| {
                vec![
                    book.version.to_string(),
                    book.name.clone(),
                    book.effective_from.map_or_else(|| "draft".to_owned(), text),
                    if book.active { "in force".to_owned() } else { String::new() },
                ]
            };
            table(&["VERSION", "NAME", "EFFECTIVE FROM", ""], &books.iter().map(row).collect::<Vec<_>>());
        }
        PriceCommand::Show { version } => {
            let version = match version {
                Some(version) => Some(BookVersion::new(version)),
                None => database.active_book_version().await?,
            };
            let book = match version {
                Some(version) => database.book(version).await?,
                None => None,
            };
            let book = book.ok_or_else(|| CliError::Failed("there is no such price book".into()))?;
            let prices = book.prices.iter().map(|(name, tariff)| (name.to_string(), *tariff)).collect();
            let file = BookFile { name: book.name, prices };
            if as_json {
                json(&file);
            } else {
                print!("{}", toml(&file));
            }
        }
        PriceCommand::Import { file } => {
            let book = read(&file)?;
            let version = database.import_book(&book.name, &book.prices).await?;
            warn_of_differences(database, &book).await?;
            if as_json {
                json(&json!({ "version": version }));
            } else {
                println!(
                    "imported as version {version}, a draft: 'tollgate admin price activate {version}' puts it in force"
                );
            }
        }
        PriceCommand::Activate { version, at } => {
            database.activate_book(BookVersion::new(version), at).await?;
            if as_json {
                json(&json!({ "version": version }));
            } else {
                println!(
                    "version {version} is in force{}",
                    at.map(|at| format!(" from {}", text(at))).unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}

/// A mistyped name would offer what the vendor does not know, and withdraw what it does.
async fn warn_of_differences(database: &Database, imported: &BookFile) -> Result<(), CliError> {
    let Some(version) = database.active_book_version().await? else { return Ok(()) };
    let Some(in_force) = database.book(version).await? else { return Ok(()) };
    for name in imported.prices.keys().filter(|name| !in_force.prices.contains_key(name.as_str())) {
        eprintln!("warning: '{name}' is not in the book in force: does the vendor know it?");
    }
    for name in in_force.prices.keys().filter(|name| !imported.prices.contains_key(name.as_ref())) {
        eprintln!("warning: '{name}' is in the book in force but not in this one: it will be refused");
    }
    Ok(())
}

fn read(file: &PathBuf) -> Result<BookFile, CliError> {
    if !file.is_file() {
        return Err(CliError::Usage(format!("there is no file {}", file.display())));
    }
    let figment = match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Figment::from(Json::file_exact(file)),
        _ => Figment::from(Toml::file_exact(file)),
    };
    figment.extract().map_err(|error| CliError::Usage(format!("{}: {error}", file.display())))
}

fn toml(book: &BookFile) -> String {
    let quote = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let mut text = format!("name = {}\n\n[prices]\n", quote(&book.name));
    for (name, tariff) in &book.prices {
        let price = match tariff {
            Tariff::Fixed { credits } => format!("unit = \"fixed\", credits = {credits}"),
            Tariff::Second { credits, credits_with_audio: None } => {
                format!("unit = \"second\", credits = {credits}")
            }
            Tariff::Second { credits, credits_with_audio: Some(audio) } => {
                format!("unit = \"second\", credits = {credits}, credits_with_audio = {audio}")
            }
        };
        text.push_str(&format!("{} = {{ {price} }}\n", quote(name)));
    }
    text
}
