//! One task, found by either of its ids, with what identifies it and the evidence dialog.

use http::Method;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::encoded;
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Facts, Table};
use crate::console::trouble::redirect;
use crate::console::view::{Badge, Money};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

/// The answer of `GET /admin/v1/holds/{hold_id}`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Hold {
    pub(super) hold_id: String,
    pub(super) org_id: String,
    org: String,
    user_id: String,
    key_id: Option<String>,
    state: String,
    late: Option<String>,
    task_type: String,
    credits: i64,
    list_price: i64,
    charged: Option<i64>,
    backend: String,
    account: String,
    upstream_task: Option<String>,
    reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    by_hand: Option<Value>,
    digests: Option<Value>,
}

#[derive(askama::Template)]
#[template(path = "operators/task.html")]
struct TaskPage {
    shell: Shell,
    hold_id: String,
    badge: Badge,
    task_type: String,
    facts: Facts,
    digests: Option<Table>,
    by_hand: Option<Table>,
    excerpt: Option<Table>,
    may_read: bool,
    may_settle: bool,
    may_release: bool,
    may_take_back: bool,
    is_in_doubt: bool,
    comparison: Option<Comparison>,
    key: String,
    /// The vendor's id, if it is known.
    upstream_task: String,
}

/// Both sides of evidence that does not fit.
struct Comparison {
    sides: Table,
    matched: String,
    differed: String,
    not_compared: String,
    /// Another hold that has this task of the vendor's: it cannot be forced.
    is_taken: bool,
}

const FIELDS: &[Column] = &[Column::Text("Field"), Column::Text("SHA-256 of its value")];
const EXCERPT: &[Column] = &[Column::Text("Field"), Column::Text("Value")];
const RECORD: &[Column] = &[Column::Text("What"), Column::Text("As recorded")];
const SIDES: &[Column] = &[Column::Text("What"), Column::Text("The hold"), Column::Text("The video service")];

const TWO_HOLDS: &[Column] =
    &[Column::Text("What"), Column::Text("This hold"), Column::Text("The other hold")];

/// What is shown of both sides: its name, and the fields of either.
const HOLD_AND_VENDOR: [(&str, &str, &str); 5] = [
    ("Id", "hold_id", "task_id"),
    ("Type", "type", "type"),
    ("State", "state", "status"),
    ("Credits", "list_price", "consumed_credits"),
    ("Created", "created_at", "created_at"),
];

const HOLDS: [(&str, &str, &str); 5] = [
    ("Id", "hold_id", "hold_id"),
    ("Type", "type", "type"),
    ("State", "state", "state"),
    ("Credits", "list_price", "list_price"),
    ("Created", "created_at", "created_at"),
];

/// A JSON value as people read it: texts without quotation marks.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// An object as rows.
fn rows(value: &Value) -> Vec<Vec<Cell>> {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(name, value)| vec![Cell::text(name), Cell::text(plain(value))]).collect()
}

fn table(caption: &'static str, columns: &'static [Column], value: &Value) -> Table {
    Table { caption, columns, rows: rows(value), empty: "Nothing is kept." }
}

/// The names of fields that a comparison speaks of.
fn named(data: &Value, name: &str) -> String {
    let names: Vec<&str> = data[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.join(", ")
}

impl Comparison {
    /// Of a refusal that shows both sides.
    fn of(problem: &Problem) -> Option<Self> {
        if problem.code != "does_not_fit" {
            return None;
        }
        let data = &problem.data;
        // A task that another hold has is not asked for: the other side is that hold.
        let is_taken = !data["other_hold"].is_null();
        let (ours, theirs) = (&data["hold"], if is_taken { &data["other_hold"] } else { &data["vendor"] });
        let pairs = if is_taken { HOLDS } else { HOLD_AND_VENDOR };
        let mut rows: Vec<Vec<Cell>> = pairs
            .iter()
            .map(|(name, our, their)| {
                vec![Cell::text(name), Cell::text(plain(&ours[our])), Cell::text(plain(&theirs[their]))]
            })
            .collect();
        let mut fields: Vec<&String> = [&ours["request"], &theirs["request"]]
            .into_iter()
            .filter_map(Value::as_object)
            .flat_map(|side| side.keys())
            .collect();
        fields.sort_unstable();
        fields.dedup();
        for field in fields {
            let side = |side: &Value| Cell::text(plain(&side["request"][field.as_str()]));
            rows.push(vec![Cell::text(field), side(ours), side(theirs)]);
        }
        Some(Self {
            sides: Table {
                caption: "Both sides",
                columns: if is_taken { TWO_HOLDS } else { SIDES },
                rows,
                empty: "",
            },
            matched: named(data, "matched"),
            differed: named(data, "differed"),
            not_compared: named(data, "not_compared"),
            is_taken,
        })
    }
}

impl Hold {
    fn badge(&self) -> Badge {
        match self.state.as_str() {
            "HELD" => Badge::new("busy", "Held"),
            "RUNNING" => Badge::new("busy", "Running"),
            "IN_DOUBT" => Badge::new("warn", "In doubt"),
            "SETTLED" => Badge::new("good", "Settled"),
            "RELEASED" => Badge::new("", "Released"),
            _ => Badge::new("warn", "Written off"),
        }
    }

    fn facts(&self, visit: &Visit) -> Facts {
        let zone = Zone::named("UTC");
        let org = visit.link(&format!("/orgs/{}", self.org_id));
        let mut facts = vec![
            ("Organisation", Cell::text(&self.org).link(&org).and(&Cell::id(&self.org_id))),
            ("Reference", Cell::id(&self.hold_id)),
            ("The service's id", Cell::id_or(self.upstream_task.as_deref(), "unknown")),
            ("User", Cell::id(&self.user_id)),
            ("Key", Cell::id_or(self.key_id.as_deref(), "none")),
            ("Backend and account", Cell::text(&self.backend).and(&Cell::text(&self.account))),
            ("List price", Cell::of(Money(self.list_price))),
            ("Held", Cell::of(Money(self.credits))),
            (
                "Charged",
                self.charged.map_or_else(|| Cell::fine("nothing"), |charged| Cell::of(Money(charged))),
            ),
            ("Created", Cell::when(&zone, self.created_at)),
            ("Ended", Cell::when_or(&zone, self.ended_at, "not yet")),
            ("Why", Cell::text_or(self.reason.as_deref(), "nothing is said")),
        ];
        if let Some(late) = &self.late {
            facts.push(("After its end", Cell::text(late)));
        }
        Facts(facts)
    }

    fn goes_on(&self) -> bool {
        ["HELD", "RUNNING", "IN_DOUBT"].contains(&self.state.as_str())
    }

    /// Whether what an operator recorded still stands, and the vendor has not reported the end. The API has the last word.
    fn can_be_taken_back(&self) -> bool {
        let stands = self.by_hand.as_ref().is_some_and(|record| record["taken_back"].is_null());
        let open = self.goes_on() || self.late.as_deref() == Some("open") || self.state == "WRITTEN_OFF";
        stands && open && self.charged.is_none()
    }
}

/// Looks a task up by either id.
#[derive(askama::Template)]
#[template(path = "operators/find.html")]
struct FindPage {
    shell: Shell,
    id: String,
    missing: bool,
    key: String,
}

pub(super) async fn find(visit: Visit) -> Outcome {
    // After a task was not adopted its id is in the form.
    let asked = visit.filled();
    let Some(id) = asked.get("id").map(str::trim) else { return Ok(html(&found_nothing(&visit, "").await)) };
    if visit.refusal().is_some() {
        return Ok(html(&found_nothing(&visit, id).await));
    }
    match visit.client.look::<Hold>(&format!("/admin/v1/holds/{}", visit.escaped(id))).await {
        Ok(hold) => Ok(redirect(&visit.link(&format!("/tasks/{}", hold.hold_id)))),
        Err(problem) if problem.status == http::StatusCode::NOT_FOUND => {
            let mut answer = html(&found_nothing(&visit, id).await);
            *answer.status_mut() = problem.status;
            Ok(answer)
        }
        Err(problem) => Err(problem.into()),
    }
}

/// The page that asks for an id, and offers to adopt a task that no hold knows.
async fn found_nothing(visit: &Visit, id: &str) -> FindPage {
    FindPage {
        shell: visit.operator("Find a task").await,
        id: id.to_owned(),
        missing: !id.is_empty(),
        key: visit.form_key(),
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    shown(&visit, None).await
}

/// The page about one task, with what is kept of its request if that was asked for.
async fn shown(visit: &Visit, excerpt: Option<Value>) -> Outcome {
    let place = format!("/admin/v1/holds/{}", visit.param("task"));
    let (shell, hold) = tokio::join!(visit.operator("Task"), visit.client.look::<Hold>(&place));
    let hold = hold?;
    let (may, late) = (shell.may_change, hold.late.is_none());
    let ended_unpaid = ["RELEASED", "WRITTEN_OFF"].contains(&hold.state.as_str()) && late;
    let is_in_doubt = hold.state == "IN_DOUBT";
    let page = TaskPage {
        badge: hold.badge(),
        task_type: hold.task_type.clone(),
        facts: hold.facts(visit),
        digests: hold.digests.as_ref().map(|digests| table("Digests of the request", FIELDS, digests)),
        by_hand: hold.by_hand.as_ref().map(|record| table("What an operator recorded", RECORD, record)),
        excerpt: excerpt.map(|excerpt| table("The request, shortened", EXCERPT, &excerpt)),
        may_read: may && hold.goes_on(),
        may_settle: may && (is_in_doubt || ended_unpaid),
        may_release: may && is_in_doubt,
        may_take_back: may && hold.can_be_taken_back(),
        is_in_doubt,
        comparison: visit.refusal().and_then(|refusal| Comparison::of(refusal.problem())),
        key: visit.form_key(),
        upstream_task: hold.upstream_task.unwrap_or_default(),
        hold_id: hold.hold_id,
        shell,
    };
    Ok(html(&page))
}

#[derive(Debug, Deserialize)]
struct Request {
    excerpt: Value,
}

/// Shows what is kept of the request. That it was read is in the audit log.
pub(super) async fn read_request(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/holds/{}/read-request", visit.param("task"));
    let Request { excerpt } = visit.client.manage(Method::POST, &place).whole().await?;
    shown(&visit, Some(excerpt)).await
}

/// A link to this task's changes in the audit log.
impl TaskPage {
    fn log(&self) -> String {
        format!("{}/console/audit?target_id={}", self.shell.bare.base, encoded(&self.hold_id))
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_shows_both_sides_and_whether_it_can_be_forced() {
        let mut problem = Problem::new(StatusCode::CONFLICT, "does_not_fit", "it does not fit");
        problem.data = json!({
            "hold": {"hold_id": "hold_1", "type": "t", "request": {"prompt": "ours", "mine": 1}},
            "vendor": {"task_id": "n75", "type": "u", "request": {"prompt": "theirs"}},
            "matched": ["duration"], "differed": ["type", "prompt"], "not_compared": ["mine"],
        });
        let found = Comparison::of(&problem).unwrap();
        assert_eq!((found.differed.as_str(), found.is_taken), ("type, prompt", false));
        let shown = found.sides.to_string();
        assert!(shown.contains("ours") && shown.contains("theirs") && shown.contains("n75"), "{shown}");
        problem.data["other_hold"] = json!({"hold_id": "hold_2"});
        assert!(Comparison::of(&problem).unwrap().is_taken);
        problem.code = "conflict".into();
        assert!(Comparison::of(&problem).is_none());
    }
}
