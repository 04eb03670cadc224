//! One task and what can be read from it at a given moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::clock::Millis;
use super::product::Product;

/// How a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Outcome {
    Success,
    Failed,
}

/// Where a task stands right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskState {
    InProgress,
    Ended(Outcome),
}

impl TaskState {
    pub(super) fn word(self) -> &'static str {
        match self {
            TaskState::InProgress => "IN_PROGRESS",
            TaskState::Ended(Outcome::Success) => "SUCCESS",
            TaskState::Ended(Outcome::Failed) => "FAILED",
        }
    }
}

/// What `response` looks like once a task succeeded. The documents say a list; siblings of the API differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub(super) enum Shape {
    List,
    String,
    Object,
    Null,
    Missing,
    Json(Value),
}

impl From<Value> for Shape {
    fn from(value: Value) -> Shape {
        match value.as_str() {
            Some("list") => Shape::List,
            Some("string") => Shape::String,
            Some("object") => Shape::Object,
            Some("null") => Shape::Null,
            Some("missing") => Shape::Missing,
            _ => Shape::Json(value),
        }
    }
}

impl From<Shape> for Value {
    fn from(shape: Shape) -> Value {
        match shape {
            Shape::List => "list".into(),
            Shape::String => "string".into(),
            Shape::Object => "object".into(),
            Shape::Null => "null".into(),
            Shape::Missing => "missing".into(),
            Shape::Json(value) => value,
        }
    }
}

/// Scripted oddities that stay with a task for its whole life, restarts included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Oddities {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response: Option<Shape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status_word: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) forgotten: bool,
}

/// A task. Its fate is decided when it is accepted and everything else follows from the time, so nothing has to
/// be woken, updated or written when it ends. Serialised, it is one line of the state file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) task_id: Arc<str>,
    pub(super) account: Arc<str>,
    #[serde(rename = "type")]
    pub(super) product: &'static Product,
    pub(super) created: Millis,
    pub(super) ends: Millis,
    pub(super) outcome: Outcome,
    /// What is consumed from acceptance to the end.
    pub(super) charge: i64,
    /// What is consumed from the end on.
    pub(super) final_charge: i64,
    // Overlong strings are replaced here and in the state file; `Echoes` has them.
    // A body may span lines, a line of the state file may not: hence the detour over a JSON string.
    #[serde(with = "raw_as_string")]
    pub(super) request: Box<RawValue>,
    // Boxed because hardly a task has any and millions of tasks are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) oddities: Option<Box<Oddities>>,
    /// Status calls received since this process started.
    #[serde(skip)]
    pub(super) polls: AtomicU64,
}

impl Task {
    pub(super) fn state(&self, now: Millis) -> TaskState {
        if now < self.ends { TaskState::InProgress } else { TaskState::Ended(self.outcome) }
    }

    pub(super) fn consumed(&self, now: Millis) -> i64 {
        match self.state(now) {
            TaskState::InProgress => self.charge,
            TaskState::Ended(_) => self.final_charge,
        }
    }

    pub(super) fn count_poll(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.oddities.as_ref().is_some_and(|oddities| oddities.forgotten)
    }
}

mod raw_as_string {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(raw: &RawValue, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(raw.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<RawValue>, D::Error> {
        RawValue::from_string(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
