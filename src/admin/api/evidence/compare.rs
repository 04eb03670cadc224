//! Compares what the vendor says of a task with what is known of a hold, and shows both sides to an operator: only what
//! identifies a request, shortened, and no secret.

use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;

use crate::credits::Credits;
use crate::order::{Excerpt, digest};
use crate::store::HoldInfo;
use crate::strict;
use crate::upstream::{Progress, Report, StatusError, is_left_out};
use crate::wire::RawObject;

/// The most fields whose names are kept of a comparison, and the most characters of a text of the vendor's that are shown.
const NAMES: usize = 32;
const SHOWN: usize = 64;

/// What a comparison came to. Fields are named, and `credits` is the figure that the operator read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) matched: Vec<String>,
    pub(super) differed: Vec<String>,
    pub(super) not_compared: Vec<String>,
    /// The vendor's word for where the task stands; else why there is none.
    vendor: String,
    vendor_credits: Option<Credits>,
    /// Whether the vendor has the task.
    exists: bool,
}

/// The vendor's type of a task: that of the request it repeats, or its own.
fn type_of(report: &Report, request: Option<&RawObject<&str>>) -> Option<String> {
    request.and_then(|request| request.string("type")).or_else(|| report.text("type"))
}

fn short(text: String) -> String {
    text.chars().take(SHOWN).collect()
}

impl Comparison {
    /// Compares a hold of this type, with these digests of the fields of its request, with what the vendor says.
    pub(super) fn of(
        task_type: &str,
        digests: Option<&Value>,
        report: &Report,
        credits: Option<Credits>,
    ) -> Self {
        let request = report.request().and_then(RawObject::parse);
        let mut found = Self {
            vendor: short(report.text("status").unwrap_or_default()),
            vendor_credits: report.raw,
            exists: true,
            ..Self::default()
        };
        found.note("type", type_of(report, request.as_ref()).map(|theirs| theirs == task_type));
        let ours = digests.and_then(Value::as_object);
        // Without digests the prompt is named all the same: it is what was not compared.
        let prompt = [("prompt".to_owned(), Value::Null)].into_iter().collect();
        for (name, ours) in ours.unwrap_or(&prompt).iter().filter(|(name, _)| *name != "type").take(NAMES) {
            let theirs = request.as_ref().and_then(|request| request.get(name));
            let theirs = theirs.filter(|theirs| !is_left_out(theirs));
            found.note(name, ours.as_str().zip(theirs).map(|(ours, theirs)| digest(theirs) == ours));
        }
        if let Some(credits) = credits {
            // Before the end the vendor's figure may change; after a failure there is nothing to settle.
            let theirs = match report.progress {
                Progress::Running => report.raw.filter(|raw| *raw == credits).map(|_| true),
                Progress::Succeeded => report.raw.map(|raw| raw == credits),
                Progress::Failed => Some(false),
            };
            found.note("credits", theirs);
        }
        found
    }

    /// The vendor said nothing of the task.
    pub(super) fn without(error: StatusError) -> Self {
        let not_compared = vec!["type".into(), "prompt".into()];
        Self { vendor: error.to_string(), not_compared, ..Self::default() }
    }

    fn note(&mut self, name: &str, same: Option<bool>) {
        let names = match same {
            Some(true) => &mut self.matched,
            Some(false) => &mut self.differed,
            None => &mut self.not_compared,
        };
        names.push(name.to_owned());
    }

    /// Why it does not fit; none: it does. Type and prompt must be the same on both sides, and nothing may differ.
    pub(super) fn objection(&self, task: &str) -> Option<String> {
        let without_force = "if you are sure all the same, record it with \"force\": true";
        if !self.exists {
            return Some(format!("{}: '{task}'; {without_force}", self.vendor));
        }
        if !self.differed.is_empty() {
            return Some(format!(
                "the vendor's task '{task}' is not this hold's: {} differ; {without_force}",
                self.differed.join(", ")
            ));
        }
        let missing: Vec<&str> = ["type", "prompt"]
            .into_iter()
            .filter(|needed| !self.matched.iter().any(|name| name == needed))
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "it cannot be checked that the vendor's task '{task}' is this hold's: {} cannot be compared; {without_force}",
                missing.join(", ")
            )
        })
    }

    /// What is kept of it with the task and in the audit log: names and figures, no content.
    pub(super) fn kept(&self) -> Value {
        json!({
            "vendor": self.vendor, "vendor_credits": self.vendor_credits, "matched": self.matched,
            "differed": self.differed, "not_compared": self.not_compared,
        })
    }
}

/// Our side of a comparison.
pub(super) fn side_of_hold(hold: &HoldInfo, excerpt: Option<Value>) -> Value {
    json!({
        "hold_id": hold.hold_id, "org_id": hold.org_id, "state": hold.state, "type": hold.task_type,
        "list_price": hold.list_price, "created_at": hold.created_at.format(&Rfc3339).ok(),
        "request": excerpt, "digests": hold.digests,
    })
}

/// The vendor's side of a comparison.
pub(super) fn side_of_vendor(task: &str, report: &Report) -> Value {
    let request = report.request().and_then(RawObject::parse);
    let (fields, digests) = shortened(report);
    json!({
        "task_id": task, "type": type_of(report, request.as_ref()).map(short), "status": report.text("status").map(short),
        "consumed_credits": report.raw, "created_at": report.text("created_at").map(short), "request": fields,
        "digests": digests,
    })
}

/// An excerpt of the request that the vendor repeats, and digests of its fields.
pub(super) fn shortened(report: &Report) -> (Value, Value) {
    let Some(request) = report.request() else { return (Value::Null, Value::Null) };
    let excerpt = Excerpt::of(request.as_bytes());
    let read = |text: &str| strict::read_json(text.as_bytes()).unwrap_or_else(|_| Map::new().into());
    (read(&excerpt.fields), read(&excerpt.digests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(data: &str) -> Report {
        Report::parse(data.into()).unwrap()
    }

    fn of(digests: &str, data: &str, credits: Option<i64>) -> (String, String, String) {
        let digests: Value = strict::read_json(digests.as_bytes()).unwrap();
        let found = Comparison::of("t", Some(&digests), &report(data), credits.map(Credits::new));
        (found.matched.join(","), found.differed.join(","), found.not_compared.join(","))
    }

    #[test]
    fn what_both_sides_have_is_compared_and_the_rest_is_named() {
        let body = r#"{"type":"t","prompt":"a \u0062","duration":5,"image":"data:x","mine":1}"#;
        let digests = Excerpt::of(body.as_bytes()).digests;
        let answer =
            |request: &str| format!(r#"{{"status":"SUCCESS","consumed_credits":7,"request":{request}}}"#);
        let same =
            answer(r#"{"type":"t","prompt":"a b","duration":5.0,"image":"[9 bytes left out]","theirs":2}"#);
        let all = |matched: &str, differed: &str, not: &str| (matched.into(), differed.into(), not.into());
        assert_eq!(of(&digests, &same, None), all("type,duration,prompt", "", "image,mine"));
        assert_eq!(of(&digests, &same, Some(7)), all("type,duration,prompt,credits", "", "image,mine"));
        assert_eq!(of(&digests, &same, Some(8)).1, "credits");
        let other = answer(r#"{"type":"u","prompt":"a","duration":5}"#);
        assert_eq!(of(&digests, &other, None), all("duration", "type,prompt", "image,mine"));
        let failed = r#"{"status":"FAILED","type":"t"}"#;
        let none = all("type", "credits", "duration,image,mine,prompt");
        assert_eq!(of(&digests, failed, Some(7)), none);
        let running = r#"{"status":"IN_PROGRESS","type":"t","consumed_credits":1}"#;
        assert_eq!(of(&digests, running, Some(7)).2, "duration,image,mine,prompt,credits");
    }

    #[test]
    fn type_and_prompt_must_be_the_same_on_both_sides() {
        let digests = json!({"prompt": digest("\"a\"")});
        let objection = |digests: Option<&Value>, data: &str| {
            Comparison::of("t", digests, &report(data), None).objection("n75")
        };
        let fits = r#"{"request":{"type":"t","prompt":"a"}}"#;
        assert_eq!(objection(Some(&digests), fits), None);
        let nothing_kept = objection(None, fits).unwrap();
        assert!(nothing_kept.contains("prompt cannot be compared"), "{nothing_kept}");
        assert!(objection(Some(&digests), r#"{"type":"t"}"#).unwrap().contains("prompt cannot be compared"));
        assert!(
            objection(Some(&digests), r#"{"type":"t","request":{"prompt":"b"}}"#)
                .unwrap()
                .contains("prompt differ")
        );
        let unknown = Comparison::without(StatusError::NotFound).objection("n75").unwrap();
        assert!(unknown.contains("does not know the task: 'n75'"), "{unknown}");
    }

    #[test]
    fn what_is_shown_of_the_vendor_is_short_and_has_no_secret() {
        let long = "x".repeat(10_000);
        let data = format!(
            r#"{{"status":"{long}","response":["https://cdn.example/v.mp4?sig=secret"],"request":{{"type":"t","prompt":"{long}","image":"https://example.com/a.png?token=secret"}}}}"#
        );
        let shown = side_of_vendor("n75", &report(&data)).to_string();
        assert!(shown.len() < 2_000 && !shown.contains("secret"), "{shown}");
    }
}
