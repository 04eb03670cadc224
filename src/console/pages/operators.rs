//! The pages of operators, a file each. What they have in common is here.

mod audit_log;
mod credits;
mod doubts;
mod drift;
mod evidence;
mod gateways;
mod limits;
mod losses;
mod org;
mod orgs;
mod people;
mod price_book;
mod price_books;
mod prices_compared;
mod providers;
mod running;
mod task;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::console::Console;
use crate::console::client::Problem;
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::Badge;
use crate::console::visit::{Fields, Place, Visit, encoded, page};

/// All pages of operators.
pub(in crate::console) fn routes() -> Router<Arc<Console>> {
    Router::new()
        .merge(Place::new("/console", orgs::show).form("", orgs::create).routes())
        .merge(of_an_org())
        .merge(of_tasks())
        .merge(of_prices())
        .route("/console/losses", page(losses::show))
        .route("/console/drift", page(drift::show))
        .route("/console/gateways", page(gateways::show))
        .route("/console/audit", page(audit_log::show))
        .merge(
            Place::new("/console/operators", tokens::show)
                .form("", tokens::create)
                .form("/{token}/revoke", tokens::revoke)
                .routes(),
        )
        .merge(
            Place::new("/console/providers", providers::show)
                .form("", providers::create)
                .form("/{provider}", providers::change)
                .routes(),
        )
}

fn of_an_org() -> Router<Arc<Console>> {
    let limits = Place::new("/console/orgs/{org}/limits", limits::show).form("", limits::change);
    Router::new()
        .merge(Place::new("/console/orgs/{org}", org::show).form("/status", org::set_status).routes())
        .merge(
            Place::new("/console/orgs/{org}/credits", credits::show).form("/{what}", credits::book).routes(),
        )
        .merge(
            Place::new("/console/orgs/{org}/people", people::show)
                .form("/requests/{request}/{answer}", people::answer)
                .routes(),
        )
        .merge(
            limits
                .form("/quotas", limits::change_quotas)
                .form("/retention", limits::change_retention)
                .form("/factors", limits::create_factor)
                .form("/factors/{factor}/end", limits::end_factor)
                .routes(),
        )
}

fn of_tasks() -> Router<Arc<Console>> {
    Router::new()
        .merge(Place::new("/console/tasks", task::find).form("/adopt", evidence::adopt).routes())
        .merge(
            Place::new("/console/tasks/{task}", task::show)
                .form("/request", task::read_request)
                .form("/settle", evidence::settle)
                .form("/release", evidence::release)
                .form("/take-back", evidence::take_back)
                .routes(),
        )
        .route("/console/running", page(running::show))
        .route("/console/doubts", page(doubts::show))
}

fn of_prices() -> Router<Arc<Console>> {
    Router::new()
        .merge(
            Place::new("/console/prices", price_books::show)
                .form("", price_books::create)
                .form("/roll-back", price_books::roll_back)
                .routes(),
        )
        .merge(
            Place::new("/console/prices/{version}", price_book::show)
                .form("/{what}", price_book::change)
                .routes(),
        )
        .route("/console/prices/{version}/diff", page(prices_compared::diff))
        .route("/console/prices/{version}/what-if", page(prices_compared::what_if))
}

/// The page that a form leads to when it has succeeded.
fn done(visit: &Visit, place: &str, word: &str) -> Response {
    redirect(&visit.link(&format!("{place}?done={word}")))
}

/// The link to the next page of a list.
fn next_page(visit: &Visit, place: &str, cursor: Option<String>) -> Option<String> {
    let others = visit.query().query_without(&["cursor", "done"]);
    cursor.map(|cursor| format!("{}?{others}&cursor={}", visit.link(place), encoded(&cursor)))
}

/// A whole number that was typed into a form, with its digits in groups or not.
fn whole(fields: &Fields, name: &'static str) -> Result<Option<i64>, Trouble> {
    let Some(text) = fields.get(name) else { return Ok(None) };
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
    let digits = digits.replace('\u{2212}', "-");
    digits
        .parse()
        .map(Some)
        .map_err(|_| Trouble::field(name, format!("The field '{name}' must be a whole number.")))
}

fn needed(fields: &Fields, name: &'static str) -> Result<i64, Trouble> {
    whole(fields, name)?.ok_or_else(|| Trouble::field(name, format!("The field '{name}' is empty.")))
}

/// An instant that was typed as a day or as a day and a time, in UTC.
fn instant(fields: &Fields, name: &'static str) -> Result<Option<String>, Trouble> {
    let Some(text) = fields.get(name) else { return Ok(None) };
    let text = text.trim();
    let wrong = || {
        let right = format!("The field '{name}' must be an instant such as 2026-11-30T18:00, in UTC.");
        Trouble::field(name, right)
    };
    let day = format_description!("[year]-[month]-[day]");
    let minute = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    if time::Date::parse(text, day).is_ok() {
        return Ok(Some(format!("{text}T00:00:00Z")));
    }
    time::PrimitiveDateTime::parse(text, minute).map_err(|_| wrong())?;
    Ok(Some(format!("{text}:00Z")))
}

/// A body, of which fields without a value are left out.
fn body(fields: &[(&str, Value)]) -> String {
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>())
        .to_string()
}

/// What a form says of a limit: a number, `default` (null in the API), or nothing.
fn limit(fields: &Fields, name: &'static str) -> Result<Option<Value>, Trouble> {
    match fields.get(name).map(str::trim) {
        None => Ok(None),
        Some("default") => Ok(Some(Value::Null)),
        Some(_) => Ok(whole(fields, name)?.map(|number| json!(number))),
    }
}

/// An organisation, as operators see it.
#[derive(Debug, Clone, Deserialize)]
struct Org {
    org_id: String,
    name: String,
    status: String,
    time_zone: String,
    available: i64,
    held: i64,
    open_tasks: i64,
    in_doubt: i64,
    price_factor_bp: i64,
    price_factor_in_force_bp: i64,
    create_per_minute: Option<i64>,
    status_per_minute: Option<i64>,
    max_open_tasks: Option<i64>,
    version: i32,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    stopped_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    deleted_at: Option<OffsetDateTime>,
}

impl Org {
    fn badge(&self) -> Badge {
        if self.deleted_at.is_some() {
            return Badge::new("bad", "Deleted");
        }
        match (self.status.as_str(), self.stopped_at) {
            ("active", None) => Badge::new("good", "Active"),
            ("active", Some(_)) => Badge::new("bad", "Stopped"),
            _ => Badge::new("warn", "Suspended"),
        }
    }

    fn is_active(&self) -> bool {
        self.status == "active"
    }
}

/// A part of a list price in basis points, as people write it: 9,500 is 95 %.
fn percent(basis_points: i64) -> String {
    let (whole, rest) = (basis_points.div_euclid(100), basis_points.rem_euclid(100));
    if rest == 0 { format!("{whole} %") } else { format!("{whole}.{rest:02} %") }
}

/// The views of one organisation.
struct Tab {
    place: String,
    text: &'static str,
    is_here: bool,
}

fn tabs(visit: &Visit, org: &str) -> Vec<Tab> {
    let all = [
        ("", "Overview"),
        ("/credits", "Credits"),
        ("/people", "Budgets and keys"),
        ("/limits", "Limits and prices"),
    ];
    let tab = |(end, text): (&str, &'static str)| {
        let place = format!("/orgs/{org}{end}");
        Tab { is_here: visit.path == format!("/console{place}"), place: visit.link(&place), text }
    };
    all.into_iter().map(tab).collect()
}

/// Makes a change whose thing must still be at the version that the form was made with.
async fn change(
    visit: &Visit,
    method: Method,
    place: &str,
    version: Option<&str>,
    body: Option<String>,
) -> Result<(), Problem> {
    let mut call = visit.client.manage(method, place);
    if let Some(version) = version {
        call = call.header("if-match", &format!("\"{version}\""));
    }
    if let Some(body) = body {
        call = call.body(body);
    }
    call.send().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_numbers_are_read_as_they_are_typed() {
        let fields =
            Fields::parse(b"a=2026-11-30&b=2026-11-30T18%3A05&c=tomorrow&n=1%2C000+000&m=%E2%88%925&x=1.5")
                .unwrap();
        let read = |name| instant(&fields, name).ok().flatten();
        assert_eq!(read("a").as_deref(), Some("2026-11-30T00:00:00Z"));
        assert_eq!(read("b").as_deref(), Some("2026-11-30T18:05:00Z"));
        assert!(instant(&fields, "c").is_err() && read("none").is_none());
        assert_eq!(whole(&fields, "n").ok().flatten(), Some(1_000_000));
        assert_eq!(whole(&fields, "m").ok().flatten(), Some(-5));
        assert!(whole(&fields, "x").is_err());
    }

    #[test]
    fn factors_are_shown_in_percent() {
        assert_eq!(
            [percent(10_000), percent(9_550), percent(5), percent(0)],
            ["100 %", "95.50 %", "0.05 %", "0 %"]
        );
    }
}
