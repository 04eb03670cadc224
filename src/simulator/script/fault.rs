//! The faults a rule can name.

use serde::Deserialize;
use serde_json::Value;

use crate::simulator::task::{Outcome, Shape};

/// One of the vendor's two calls, as a rule names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum VendorCall {
    Create,
    Status,
}

/// One fault, tagged by `kind`.
///
/// `accept` says whether a create is accepted (a task made, the account charged) although its caller is not
/// told; it is `false` unless written, and has no meaning on a status rule.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Fault {
    /// Waits, then behaves as if nothing had happened. A create is accepted after the wait (a caller that hangs
    /// up before has bought nothing), with `accept` before it.
    Delay {
        ms: u64,
        #[serde(default)]
        accept: bool,
    },
    /// Never answers and keeps the connection open.
    Hang {
        #[serde(default)]
        accept: bool,
    },
    /// Reads the request, does nothing, closes the connection.
    CutBefore {},
    /// Does the work, then closes the connection: unanswered, or with `partial` half way through the body.
    CutAfter {
        #[serde(default)]
        partial: bool,
    },
    /// Any HTTP status, with the vendor's envelope or (`envelope: false`) a CDN's HTML page.
    HttpError {
        status: u16,
        #[serde(default = "yes")]
        envelope: bool,
        error: Option<String>,
        message: Option<String>,
        /// Seconds, or a string that is sent as it is.
        retry_after: Option<Value>,
        #[serde(default)]
        accept: bool,
    },
    /// HTTP 200 whose envelope says otherwise.
    BodyCode {
        code: i64,
        error: Option<String>,
        message: Option<String>,
        #[serde(default)]
        accept: bool,
    },
    /// HTTP 200 with an HTML page.
    Html {
        #[serde(default)]
        accept: bool,
    },
    /// A redirect to `location`.
    Redirect {
        #[serde(default = "found")]
        status: u16,
        location: String,
        #[serde(default)]
        accept: bool,
    },
    /// HTTP 200, `application/json`, not JSON.
    Garbage {
        #[serde(default)]
        accept: bool,
    },
    /// The true answer, framed correctly, but its JSON ends half way.
    Truncated {},
    /// The true answer, padded by this many bytes; still valid JSON.
    Huge { bytes: u64 },
    /// The true answer, one byte at a time.
    SlowDrip { ms_per_byte: u64 },
    /// The answer shows this as `consumed_credits`, or lacks the field if `value` is left out. The books charge
    /// the price, or `charge`.
    Consumed {
        #[serde(default, deserialize_with = "present")]
        value: Option<Value>,
        charge: Option<i64>,
    },
    /// The answer lacks `task_id`.
    NoTaskId {},
    /// The answer shows this as `task_id`. A create's task really gets this id if it is a free, non-empty string.
    TaskId { value: Value },
    /// A create is answered as ended, and has ended, unless `outcome` beside it says how it really goes on.
    CreateStatus { status: Outcome },
    /// How the task ends and what it has consumed then.
    Outcome { status: Outcome, consumed: Option<i64> },
    /// What `response` is once the task succeeded: a shape by name (`list`, `string`, `object`, `null`,
    /// `missing`) or any other JSON as it is.
    ResponseShape { value: Shape },
    /// An undocumented status word. On create: in its answer and in status answers until the task ends. On status: in
    /// every answer that the rule applies to.
    StatusWord { value: String },
    /// Status answers 404 as if the task had never existed. The books still have it.
    Forget {},
    /// The time this task takes.
    TaskMs { ms: u64 },
}

impl Fault {
    /// The name under which a script writes it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Fault::Delay { .. } => "delay",
            Fault::Hang { .. } => "hang",
            Fault::CutBefore {} => "cut_before",
            Fault::CutAfter { .. } => "cut_after",
            Fault::HttpError { .. } => "http_error",
            Fault::BodyCode { .. } => "body_code",
            Fault::Html { .. } => "html",
            Fault::Redirect { .. } => "redirect",
            Fault::Garbage { .. } => "garbage",
            Fault::Truncated {} => "truncated",
            Fault::Huge { .. } => "huge",
            Fault::SlowDrip { .. } => "slow_drip",
            Fault::Consumed { .. } => "consumed",
            Fault::NoTaskId {} => "no_task_id",
            Fault::TaskId { .. } => "task_id",
            Fault::CreateStatus { .. } => "create_status",
            Fault::Outcome { .. } => "outcome",
            Fault::ResponseShape { .. } => "response_shape",
            Fault::StatusWord { .. } => "status_word",
            Fault::Forget {} => "forget",
            Fault::TaskMs { .. } => "task_ms",
        }
    }

    /// The part of this fault that has no meaning on a status rule.
    pub(super) fn only_on_create(&self) -> Option<&'static str> {
        match self {
            Fault::Delay { accept: true, .. }
            | Fault::Hang { accept: true }
            | Fault::HttpError { accept: true, .. }
            | Fault::BodyCode { accept: true, .. }
            | Fault::Html { accept: true }
            | Fault::Redirect { accept: true, .. }
            | Fault::Garbage { accept: true } => Some("accept"),
            Fault::Consumed { charge: Some(_), .. } => Some("charge"),
            Fault::CreateStatus { .. } | Fault::Outcome { .. } | Fault::TaskMs { .. } => Some(self.kind()),
            _ => None,
        }
    }
}

fn yes() -> bool {
    true
}

fn found() -> u16 {
    302
}

/// Keeps `null` apart from a field that is not there.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
