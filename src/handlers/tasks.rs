//! `GET /api/tasks`: tasks, newest first, in pages. A member lists its own tasks, an organisation's admin all.

use std::collections::BTreeMap;

use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::Handlers;
use crate::call::{Admitted, Call, Context};
use crate::credits::Credits;
use crate::error::{Answer, GatewayError};
use crate::ids::{HoldId, KeyId, UserId};
use crate::order::Labels;
use crate::poll::{shown_credits, shown_status, word};
use crate::store::{Principal, Role, State, StoredText, Task, TaskFilter};
use crate::wire::{RawObject, Success, success};

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

/// List tasks
///
/// Newest first. A member sees its own tasks, an organisation's admin all tasks of the organisation.
#[utoipa::path(
    get, path = "/api/tasks", tag = "tasks", operation_id = "tasks",
    params(TasksQuery),
    responses((status = 200, description = "A page of tasks", body = Success<TasksData>))
)]
pub(super) async fn tasks(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = &call.stage.principal;
    let filter = filter(&call.context, principal)?;
    let limit = match call.context.parameter("limit")? {
        None => DEFAULT_LIMIT,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => limit,
            _ => return Err(bad("limit", "a whole number from 1 to 100")),
        },
    };
    // One more than shown tells whether there is another page.
    let mut page =
        handlers.database.turn_of(principal.org).await?.tasks(principal.org, &filter, limit + 1).await?;
    let more = page.len() > limit as usize;
    page.truncate(limit as usize);
    let last = page.last().map(|task| task.hold);
    let cursor = match (more, filter.looks_on()) {
        (true, _) => last,
        (false, false) => None,
        // Few of the tasks that were looked at may match: the next page looks further, and shows none again.
        (false, true) => {
            let turn = handlers.database.turn_of(principal.org).await?;
            let looked = turn.looked_until(principal.org, &filter).await?;
            looked.map(|looked| last.map_or(looked, |last| last.min(looked)))
        }
    };
    let data = TasksData { tasks: page.iter().map(row).collect(), next_cursor: cursor };
    handlers.success(principal.org, success(&data))
}

/// A task in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskRow {
    /// The id of the task, for status calls.
    task_id: String,
    /// The gateway's own reference of the task, which status calls accept too.
    reference: HoldId,
    /// `IN_PROGRESS`, `SUCCESS` or `FAILED`.
    status: &'static str,
    /// The state of the task in the ledger.
    state: &'static str,
    #[serde(rename = "type")]
    task_type: String,
    /// The first 200 characters of the prompt, as the video service repeats it; null: it is not known yet, or not kept any more.
    prompt: Option<String>,
    /// The length in seconds that was asked for; null: likewise, or the type has none.
    duration: Option<i64>,
    /// Credits that are held for the task, or were charged.
    consumed_credits: Credits,
    user_id: UserId,
    /// The API key that created the task; null: it was created without an API key.
    key_id: Option<KeyId>,
    /// The labels of the task, by name.
    labels: BTreeMap<String, String>,
    /// When the task was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
}

/// A page of tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TasksData {
    tasks: Vec<TaskRow>,
    /// The `cursor` of the next page; null: this is the last page.
    next_cursor: Option<HoldId>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parsed one by one, so that each refusal names what would be right")]
pub(super) struct TasksQuery {
    /// Only tasks with this status: `IN_PROGRESS`, `SUCCESS`, `FAILED`; or in this state of the ledger: `HELD`, `RUNNING`,
    /// `IN_DOUBT`, `SETTLED`, `RELEASED`, `WRITTEN_OFF`.
    #[param(value_type = Option<StatusWord>, inline)]
    status: Option<String>,
    /// Only tasks of this user.
    user: Option<UserId>,
    /// Only tasks created with this API key.
    key: Option<KeyId>,
    /// Only tasks with this label: `name=value`. With other filters as well a page may have fewer tasks than `limit`, or none, and
    /// still a `next_cursor`: each page looks at up to 1,000 tasks with the label.
    #[param(max_length = 193, example = "project=x")]
    label: Option<String>,
    /// Only tasks of this type. A page may have fewer tasks than `limit`, or none, and still a `next_cursor`: each page looks at up to
    /// 500 tasks.
    #[param(rename = "type", max_length = 64, example = "pro-text-to-video")]
    task_type: Option<String>,
    /// Only tasks created at this instant or later.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<OffsetDateTime>,
    /// Only tasks created before this instant.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<OffsetDateTime>,
    /// Maximum number of tasks in the page; default 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the previous page.
    cursor: Option<HoldId>,
}

/// The words that the filter `status` takes.
struct StatusWord;

impl PartialSchema for StatusWord {
    fn schema() -> RefOr<Schema> {
        let states =
            [State::Held, State::Running, State::InDoubt, State::Settled, State::Released, State::WrittenOff];
        let words = [State::Running, State::Settled, State::Released].map(word);
        let all = words.into_iter().chain(states.map(State::as_str));
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(all)).into()
    }
}

impl ToSchema for StatusWord {}

/// The most characters of a prompt in a list.
const PROMPT: usize = 200;

/// Prompt and length of the request that the video service repeats.
fn asked(task: &Task) -> (Option<String>, Option<i64>) {
    let data = task.data.as_ref().and_then(StoredText::read).and_then(|data| RawObject::parse(&**data));
    let Some(request) = data.as_ref().and_then(|data| data.get("request")).and_then(RawObject::parse) else {
        return (None, None);
    };
    let prompt = request.string("prompt").map(|prompt| prompt.chars().take(PROMPT).collect());
    (prompt, request.get("duration").and_then(|text| text.trim().parse().ok()))
}

fn row(task: &Task) -> TaskRow {
    let (prompt, duration) = asked(task);
    TaskRow {
        prompt,
        duration,
        task_id: task.upstream_task.as_deref().map_or_else(|| task.hold.to_string(), ToOwned::to_owned),
        reference: task.hold,
        status: shown_status(task),
        state: task.state.as_str(),
        task_type: task.task_type.to_string(),
        consumed_credits: shown_credits(task),
        user_id: task.user,
        key_id: task.key,
        labels: task.labels.to_map(),
        created_at: task.created_at,
        ended_at: task.ended_at,
    }
}

const PARAMETERS: [&str; 9] = ["status", "user", "key", "label", "type", "since", "until", "limit", "cursor"];

fn filter(context: &Context, principal: &Principal) -> Result<TaskFilter, GatewayError> {
    // A mistyped filter must not list everything.
    if let Some(unknown) = context.parameter_names().find(|name| !PARAMETERS.contains(&name.as_str())) {
        let shown: String = unknown.chars().take(32).collect();
        return Err(GatewayError::invalid_request(format!(
            "'{shown}' is not one of: {}",
            PARAMETERS.join(", ")
        )));
    }
    let mut filter = TaskFilter::default();
    if let Some(text) = context.parameter("status")? {
        let states =
            [State::Held, State::Running, State::InDoubt, State::Settled, State::Released, State::WrittenOff];
        let states: Vec<State> =
            states.into_iter().filter(|state| word(*state) == text || state.as_str() == text).collect();
        if states.is_empty() {
            return Err(bad(
                "status",
                "IN_PROGRESS, SUCCESS, FAILED, or a state: HELD, RUNNING, IN_DOUBT, SETTLED, RELEASED, WRITTEN_OFF",
            ));
        }
        filter.as_shown = states.iter().any(|state| word(*state) == text);
        filter.states = Some(states);
    }
    filter.user = parse(context, "user", "a user id (usr_…)")?;
    filter.key = parse(context, "key", "a key id (key_…)")?;
    filter.label = context
        .parameter("label")?
        .map(|text| Labels::of_filter(&text).map_err(|why| bad("label", &format!("name=value: {why}"))))
        .transpose()?;
    filter.task_type = context.parameter("type")?;
    if filter.task_type.as_ref().is_some_and(|name| name.chars().count() > 64 || name.contains('\0')) {
        return Err(bad("type", "a task type such as pro-text-to-video"));
    }
    filter.before = parse::<HoldId>(context, "cursor", "the next_cursor of the previous page")?;
    filter.since = instant(context, "since")?;
    filter.until = instant(context, "until")?;
    if principal.role == Role::Member {
        if filter.user.is_some_and(|user| user != principal.user) {
            return Err(GatewayError::Forbidden(
                "only an organisation's admin can list the tasks of other users",
            ));
        }
        filter.user = Some(principal.user);
    }
    Ok(filter)
}

fn parse<T: std::str::FromStr>(
    context: &Context,
    name: &str,
    right: &str,
) -> Result<Option<T>, GatewayError> {
    context.parameter(name)?.map(|text| text.parse().map_err(|_| bad(name, right))).transpose()
}

fn instant(context: &Context, name: &str) -> Result<Option<OffsetDateTime>, GatewayError> {
    let parse = |text: String| {
        // Some instants at the end of the year 9999 cannot be expressed in UTC.
        OffsetDateTime::parse(&text, &Rfc3339)
            .ok()
            .and_then(|at| at.checked_to_offset(UtcOffset::UTC))
            .ok_or_else(|| bad(name, "an instant such as 2026-02-05T10:30:00Z"))
    };
    context.parameter(name)?.map(parse).transpose()
}

fn bad(name: &str, right: &str) -> GatewayError {
    GatewayError::invalid_request(format!("'{name}' must be {right}"))
}
