//! The answers of the APIs, as far as pages read them. Fields that are missing here are not shown; more fields may come.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

/// The data plane's envelope.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) data: T,
}

/// Who the caller is: the answer of `GET /api/me`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Me {
    pub(super) role: String,
    pub(super) suspended: bool,
    pub(super) organisation: MyOrg,
    pub(super) team: Option<MyTeam>,
    pub(super) user: MyUser,
    pub(super) key: Option<MyKey>,
    pub(super) budgets: Vec<MyBudget>,
    #[serde(default)]
    pub(super) last_refusal: Option<Refused>,
}

/// A create that was refused.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) code: Option<String>,
    pub(super) message: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
}

impl Me {
    /// Whether the caller manages its organisation.
    pub(super) fn is_admin(&self) -> bool {
        self.role == "admin"
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct MyOrg {
    pub(super) org_id: String,
    pub(super) name: String,
    pub(super) time_zone: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct MyTeam {
    pub(super) team_id: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct MyUser {
    pub(super) user_id: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct MyKey {
    pub(super) key_id: String,
    pub(super) name: String,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) expires_at: Option<OffsetDateTime>,
}

/// A budget that counts for the caller.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct MyBudget {
    pub(super) level: String,
    pub(super) period: String,
    pub(super) limit: Option<i64>,
    pub(super) used: i64,
    pub(super) held: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) resets_at: Option<OffsetDateTime>,
}

/// What there is to spend: the answer of `GET /api/credits`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Balance {
    pub(super) available: i64,
    pub(super) held: i64,
    pub(super) consumed: i64,
    pub(super) overdraft: i64,
    pub(super) open_tasks: i32,
    pub(super) in_doubt: i32,
}

/// A page of tasks: the answer of `GET /api/tasks`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tasks {
    pub(super) tasks: Vec<TaskRow>,
    pub(super) next_cursor: Option<String>,
}

/// A task in a list.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TaskRow {
    pub(super) task_id: String,
    pub(super) reference: String,
    pub(super) status: String,
    pub(super) state: String,
    #[serde(rename = "type")]
    pub(super) task_type: String,
    pub(super) prompt: Option<String>,
    pub(super) duration: Option<i64>,
    pub(super) consumed_credits: i64,
    pub(super) user_id: String,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
}

impl TaskRow {
    /// Whether the task ends within minutes; one that is in doubt may stay so for a day.
    pub(super) fn is_running(&self) -> bool {
        self.status == "IN_PROGRESS" && ["HELD", "RUNNING"].contains(&self.state.as_str())
    }
}

/// One task and its price: the answer of `GET /api/tasks/{task_id}`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TaskDetail {
    pub(super) task_id: String,
    pub(super) reference: String,
    pub(super) status: String,
    pub(super) state: String,
    #[serde(rename = "type")]
    pub(super) task_type: String,
    pub(super) user_id: String,
    pub(super) user_name: String,
    pub(super) key_name: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) accepted_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) doubt_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) ended_at: Option<OffsetDateTime>,
    pub(super) polls: u32,
    pub(super) price_book: i32,
    pub(super) list_price: i64,
    pub(super) price_factor_bp: i32,
    pub(super) held_credits: i64,
    pub(super) reported_credits: Option<i64>,
    pub(super) consumed_credits: i64,
    pub(super) entry_id: Option<String>,
    pub(super) keeps_content: bool,
}

/// The answer of `GET /api/status`. What the vendor adds is read where it is known.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) response: Value,
    #[serde(default)]
    pub(super) error_message: Value,
    /// What was asked for, as the vendor repeats it.
    #[serde(default)]
    pub(super) request: Value,
}

impl Status {
    pub(super) fn prompt(&self) -> Option<String> {
        self.request["prompt"].as_str().filter(|text| !text.trim().is_empty()).map(ToOwned::to_owned)
    }
}

/// The prices in force: the answer of `GET /api/prices`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Prices {
    pub(super) price_book: i32,
    pub(super) price_book_name: String,
    pub(super) price_factor_bp: i32,
    pub(super) types: Vec<TypePrice>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct TypePrice {
    #[serde(rename = "type")]
    pub(super) task_type: String,
    pub(super) price: Tariff,
    pub(super) allowed: bool,
    pub(super) fields: TypeFields,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tariff {
    pub(super) unit: String,
    pub(super) credits: i64,
    pub(super) credits_with_audio: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct TypeFields {
    pub(super) prompt_characters: usize,
    pub(super) seconds: Option<Seconds>,
    pub(super) image: String,
    pub(super) end_image: String,
    pub(super) images: String,
    pub(super) most_images: usize,
    pub(super) video: String,
    pub(super) sound_by_default: bool,
    pub(super) aspect_ratios: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Seconds {
    pub(super) least: u8,
    pub(super) most: u8,
    pub(super) by_default: u8,
}

/// The price of a body: the answer of `POST /api/quote`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Quote {
    pub(super) credits: i64,
    pub(super) list_price: i64,
    pub(super) price_factor_bp: i32,
    pub(super) available: i64,
    pub(super) quote: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) valid_until: Option<OffsetDateTime>,
}

/// A page of a list of the management API.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) next_cursor: Option<String>,
}

/// A user, of the management API.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Person {
    pub(super) user_id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) status: String,
    pub(super) team_id: Option<String>,
    pub(super) version: i32,
}

/// A team, of the management API.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Team {
    pub(super) team_id: String,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) version: i32,
}
