//! The faults of a rule, folded into one plan when the script is posted.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::fault::{Fault, VendorCall};
use crate::simulator::task::{Outcome, Shape};

/// Everything that goes wrong with one call.
#[derive(Debug, Default)]
pub(in crate::simulator) struct FaultPlan {
    pub(in crate::simulator) delay: Option<Duration>,
    /// The create is accepted before the delay, not after it.
    pub(in crate::simulator) accept_first: bool,
    pub(in crate::simulator) instead: Option<Instead>,
    pub(in crate::simulator) truncated: bool,
    pub(in crate::simulator) padding: u64,
    pub(in crate::simulator) drip: Option<Duration>,
    pub(in crate::simulator) task_id: Option<Replacement>,
    pub(in crate::simulator) consumed: Option<Replacement>,
    pub(in crate::simulator) charge: Option<i64>,
    pub(in crate::simulator) create_status: Option<Outcome>,
    pub(in crate::simulator) outcome: Option<Outcome>,
    pub(in crate::simulator) final_charge: Option<i64>,
    pub(in crate::simulator) response: Option<Shape>,
    pub(in crate::simulator) status_word: Option<String>,
    pub(in crate::simulator) forget: bool,
    pub(in crate::simulator) task_ms: Option<u64>,
}

/// The plan of a call that no rule applies to.
pub(super) static HONEST: FaultPlan = FaultPlan {
    delay: None,
    accept_first: false,
    instead: None,
    truncated: false,
    padding: 0,
    drip: None,
    task_id: None,
    consumed: None,
    charge: None,
    create_status: None,
    outcome: None,
    final_charge: None,
    response: None,
    status_word: None,
    forget: false,
    task_ms: None,
};

/// What happens in place of the true answer.
#[derive(Debug)]
pub(in crate::simulator) enum Instead {
    Hang { accept: bool },
    CutBefore,
    CutAfter { partial: bool },
    Answer { canned: Canned, accept: bool },
}

#[derive(Debug, Clone)]
pub(in crate::simulator) struct Canned {
    pub(in crate::simulator) status: StatusCode,
    pub(in crate::simulator) content_type: &'static str,
    pub(in crate::simulator) location: Option<HeaderValue>,
    pub(in crate::simulator) retry_after: Option<HeaderValue>,
    pub(in crate::simulator) body: Bytes,
}

/// What a field of the true answer becomes.
#[derive(Debug)]
pub(in crate::simulator) enum Replacement {
    Missing,
    Json(Value),
}

const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Please wait</title></head><body><center><h1>The site is \
                    temporarily unavailable</h1></center><hr><center>cdn</center></body></html>\n";

impl FaultPlan {
    /// Folds a rule's faults into one plan, refusing those that contradict each other.
    pub(super) fn of(on: VendorCall, faults: Vec<Fault>) -> Result<FaultPlan, String> {
        let mut plan = FaultPlan::default();
        let mut kinds: Vec<&'static str> = Vec::new();
        let mut ending: Option<&'static str> = None;
        for fault in faults {
            let kind = fault.kind();
            if kinds.contains(&kind) {
                return Err(format!("\"{kind}\" is named twice"));
            }
            kinds.push(kind);
            if let Some(part) = fault.only_on_create().filter(|_| on == VendorCall::Status) {
                return Err(format!("\"{part}\" works on create rules only"));
            }
            if let Some(instead) = plan.add(on, fault)? {
                if let Some(other) = ending.replace(kind) {
                    return Err(format!(
                        "\"{other}\" and \"{kind}\" each replace the answer; name one of them"
                    ));
                }
                plan.instead = Some(instead);
            }
        }
        if kinds.contains(&"task_id") && kinds.contains(&"no_task_id") {
            return Err("\"task_id\" and \"no_task_id\" contradict each other".to_owned());
        }
        Ok(plan)
    }

    /// Whether a create that meets this plan is accepted, provided its body is.
    pub(in crate::simulator) fn accepts(&self) -> bool {
        match &self.instead {
            None | Some(Instead::CutAfter { .. }) => true,
            Some(Instead::CutBefore) => false,
            Some(Instead::Hang { accept } | Instead::Answer { accept, .. }) => *accept || self.accept_first,
        }
    }

    fn add(&mut self, on: VendorCall, fault: Fault) -> Result<Option<Instead>, String> {
        let mut instead = None;
        match fault {
            Fault::Delay { ms, accept } => {
                self.delay = Some(Duration::from_millis(ms));
                self.accept_first = accept;
            }
            Fault::Hang { accept } => instead = Some(Instead::Hang { accept }),
            Fault::CutBefore {} => instead = Some(Instead::CutBefore),
            Fault::CutAfter { partial } => instead = Some(Instead::CutAfter { partial }),
            Fault::HttpError { status, envelope, error, message, retry_after, accept } => {
                let mut canned = if envelope {
                    Canned::envelope(status_code(status)?, i64::from(status), error, message)
                } else {
                    Canned::page(status_code(status)?)
                };
                canned.retry_after = retry_after.map(header_value).transpose()?;
                instead = Some(Instead::Answer { canned, accept });
            }
            Fault::BodyCode { code, error, message, accept } => {
                let canned = Canned::envelope(StatusCode::OK, code, error, message);
                instead = Some(Instead::Answer { canned, accept });
            }
            Fault::Html { accept } => {
                instead = Some(Instead::Answer { canned: Canned::page(StatusCode::OK), accept });
            }
            Fault::Redirect { status, location, accept } => {
                if !(300..=399).contains(&status) {
                    return Err(format!("a redirect's status is 300 to 399, not {status}"));
                }
                let mut canned = Canned::page(status_code(status)?);
                canned.location = Some(header_value(Value::String(location))?);
                instead = Some(Instead::Answer { canned, accept });
            }
            Fault::Garbage { accept } => {
                let mut canned = Canned::page(StatusCode::OK);
                canned.content_type = "application/json";
                canned.body = Bytes::from_static(b"\x00\xff{]] this is not JSON");
                instead = Some(Instead::Answer { canned, accept });
            }
            Fault::Truncated {} => self.truncated = true,
            Fault::Huge { bytes } => self.padding = bytes,
            Fault::SlowDrip { ms_per_byte } => self.drip = Some(Duration::from_millis(ms_per_byte)),
            Fault::Consumed { value, charge } => {
                self.consumed = Some(value.map_or(Replacement::Missing, Replacement::Json));
                self.charge = charge;
            }
            Fault::NoTaskId {} => self.task_id = Some(Replacement::Missing),
            Fault::TaskId { value } => self.task_id = Some(Replacement::Json(value)),
            Fault::CreateStatus { status } => self.create_status = Some(status),
            Fault::Outcome { status, consumed } => {
                self.outcome = Some(status);
                self.final_charge = consumed;
            }
            Fault::ResponseShape { value } => self.response = Some(value),
            Fault::StatusWord { value } => self.status_word = Some(value),
            Fault::Forget {} if on == VendorCall::Status => {
                let canned = Canned::envelope(StatusCode::NOT_FOUND, 404, None, None);
                instead = Some(Instead::Answer { canned, accept: false });
            }
            Fault::Forget {} => self.forget = true,
            Fault::TaskMs { ms } => self.task_ms = Some(ms),
        }
        Ok(instead)
    }
}

impl Canned {
    fn page(status: StatusCode) -> Canned {
        Canned {
            status,
            content_type: "text/html; charset=utf-8",
            location: None,
            retry_after: None,
            body: Bytes::from_static(PAGE.as_bytes()),
        }
    }

    fn envelope(status: StatusCode, code: i64, error: Option<String>, message: Option<String>) -> Canned {
        let error = error.unwrap_or_else(|| usual_error(code).to_owned());
        let message = message.unwrap_or_else(|| format!("{error} (scripted)"));
        let envelope = json!({ "code": code, "error": error, "message": message });
        Canned {
            content_type: "application/json",
            body: Bytes::from(envelope.to_string()),
            ..Canned::page(status)
        }
    }
}

/// The vendor's own word for a code, where its documents have one.
fn usual_error(code: i64) -> &'static str {
    match code {
        400 => "INVALID_PROMPT",
        401 => "INVALID_API_KEY",
        402 => "INSUFFICIENT_CREDITS",
        404 => "TASK_NOT_FOUND",
        429 => "RATE_LIMITED",
        500 => "INTERNAL_ERROR",
        _ => "ERROR",
    }
}

/// Refuses interim statuses (1xx): they would need a final answer after them.
fn status_code(status: u16) -> Result<StatusCode, String> {
    StatusCode::from_u16(status)
        .ok()
        .filter(|code| !code.is_informational())
        .ok_or_else(|| format!("{status} is no final HTTP status; use 200 to 999"))
}

fn header_value(value: Value) -> Result<HeaderValue, String> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        other => return Err(format!("{other} cannot be a header; write a number or a string")),
    };
    HeaderValue::from_str(&text)
        .map_err(|_| format!("{text:?} cannot be a header: it has control characters"))
}
