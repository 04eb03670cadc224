//! A price book as a file: `tollgate admin price show` prints it, and `price import` reads it.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{CliError, output};
use super::client::Session;
use super::named;
use super::prices::{BOOK, BOOKS};
use crate::pricing::Tariff;
use crate::strict;

/// A price book as a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BookFile {
    name: String,
    prices: BTreeMap<String, Tariff>,
}

/// Prints a price book in the form that [`import`] reads.
pub(super) fn show(session: &Session, book: &Value) -> Result<(), CliError> {
    let prices = serde_json::from_value(book["prices"].clone())
        .map_err(|_| CliError::Failed("the answer is not a price book".into()))?;
    let file = BookFile { name: named(book, "name"), prices };
    if session.prints_json() {
        session.show(&serde_json::to_value(&file).unwrap_or_default(), BOOK);
    } else {
        output::raw(toml(&file));
    }
    Ok(())
}

/// Makes a draft of the price book in `file`.
pub(super) async fn import(session: &Session, file: &Path) -> Result<(), CliError> {
    let book = read(file)?;
    if book.prices.is_empty() {
        return Err(CliError::Usage("a price book needs at least one price".into()));
    }
    let made = session.post(BOOKS, json!(book)).await?;
    warn_of_differences(session, &book).await?;
    let version = &made["version"];
    session.say(&made, format!("imported as version {version}, a draft: 'tollgate admin price activate {version}' puts it in force"));
    Ok(())
}

/// Warns of task types that only one of the two books has. A mistyped name would offer a type that the vendor does not
/// know, and withdraw one that the vendor knows.
async fn warn_of_differences(session: &Session, imported: &BookFile) -> Result<(), CliError> {
    let in_force = session.get(&format!("{BOOKS}/in-force")).await?;
    let Some(in_force) = in_force["prices"].as_object() else { return Ok(()) };
    for name in imported.prices.keys().filter(|name| !in_force.contains_key(name.as_str())) {
        eprintln!("warning: '{name}' is not in the book in force: does the vendor know it?");
    }
    for name in in_force.keys().filter(|name| !imported.prices.contains_key(name.as_str())) {
        eprintln!(
            "warning: '{name}' is in the book in force but not in this one: creates of it will be refused"
        );
    }
    Ok(())
}

fn read(file: &Path) -> Result<BookFile, CliError> {
    let wrong = |why: String| CliError::Usage(format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if file.extension().is_some_and(|extension| extension == "json") {
        return strict::read_json(&text).map_err(|error| wrong(error.to_string()));
    }
    let text = String::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
    Figment::from(Toml::string(&text)).extract().map_err(|error| wrong(error.to_string()))
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
