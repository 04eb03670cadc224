//! Lists of tasks: filters, and where the tasks that match are read from.

use time::OffsetDateTime;
use uuid::Uuid;

use super::tasks::{COLUMNS, LABELS, State, Task, task};
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// What the vendor said about a row of `task`, where it is short: lists show the beginning of the prompt.
const SMALL_CONTENT: &str = "left join lateral (select case when octet_length(coalesce(c.last, c.first)) <= 8192 \
     then coalesce(c.last, c.first) end as data from content c \
     where c.org_id = task.org_id and c.hold_id = task.hold_id) texts on true";
const SMALL: &str = "texts.data";

/// Which tasks a list contains.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only tasks in one of these states.
    pub states: Option<Vec<State>>,
    /// Compare `states` with the state that callers see instead of the stored one: a reopened task is shown as running
    /// or as succeeded.
    pub as_shown: bool,
    /// Only tasks of this user.
    pub user: Option<UserId>,
    /// Only tasks of this key.
    pub key: Option<KeyId>,
    /// Only tasks created at or after this instant.
    pub since: Option<OffsetDateTime>,
    /// Only tasks created before this instant.
    pub until: Option<OffsetDateTime>,
    /// Only tasks that have the label with this name and value.
    pub label: Option<(String, String)>,
    /// Only tasks of this type.
    pub task_type: Option<String>,
    /// Only tasks older than this one: the cursor.
    pub before: Option<HoldId>,
}

/// A list by a label looks at so many of its tasks for those that match the other filters.
const LABELLED: i64 = 1_000;

/// A list by a type looks at so many tasks for those of the type, because no index has the type.
const TYPED: i64 = 500;

/// The tasks that a list by a label looks at.
const WITH_LABEL: &str = "select l.hold_id from label l where l.org_id = $1 and l.name = $11 and l.value = $12 and l.hold_id < $3 \
     and l.hold_id >= $4 order by l.hold_id desc";

/// What a list asks of each hold `h` beside its state and its place.
const WANTED: &str = "and ($5::uuid is null or h.user_id = $5) and ($6::uuid is null or h.key_id = $6) \
     and ($7::timestamptz is null or h.created_at >= $7) and ($8::timestamptz is null or h.created_at < $8)";

/// By how much the clock of a gateway, which the id of a hold begins with, may differ from that of the database.
const CLOCKS_DIFFER: time::Duration = time::Duration::HOUR;

impl TaskFilter {
    /// Where holds `h` of organisation `$1` with these states are read from, in the order of their ids, without reading
    /// others: what goes on, what nobody paid for and what was charged each stand in a table of their own.
    fn sources(&self) -> Vec<String> {
        let by = |table: &str| match (self.user, self.key) {
            (_, Some(_)) => format!("and {table}.key_id = $6"),
            (Some(_), None) => format!("and {table}.user_id = $5"),
            (None, None) => String::new(),
        };
        let place = |id: &str| format!("{id} < $3 and {id} >= $4");
        let here = place("h.hold_id");
        let of_hold = |state: &str| format!("hold h where h.org_id = $1 and {here} {state} {}", by("h"));
        if self.label.is_some() {
            return vec![format!(
                "({WITH_LABEL} limit {LABELLED}) labelled cross join lateral ( \
                     select own.user_id, own.key_id, own.created_at, own.state, own.late, own.task_type from task own \
                     where own.org_id = $1 and own.hold_id = labelled.hold_id limit 1) h \
                 where ($2::text[] is null or case when $9 and h.late = 'open' then 'RUNNING' \
                 when $9 and h.late = 'charged' then 'SETTLED' else h.state end = any($2))"
            )];
        }
        let Some(states) = &self.states else { return vec![of_hold("")] };
        let any = |some: &[State]| states.iter().any(|state| some.contains(state));
        let mut sources = Vec::new();
        if any(&[State::Held, State::Running, State::InDoubt]) {
            sources.push(format!(
                "open_task o join hold h on h.org_id = o.org_id and h.hold_id = o.hold_id where o.org_id = $1 and {} \
                 and o.state = any($2) and (not o.reopened or $9)",
                place("o.hold_id")
            ));
        }
        let unpaid = any(&[State::Released, State::WrittenOff]);
        if unpaid {
            sources.push(format!(
                "unpaid_task u join hold h on h.org_id = u.org_id and h.hold_id = u.hold_id where u.org_id = $1 and {} {} \
                 and (not $9 or h.late is distinct from 'open') \
                 and case when $9 and h.late = 'charged' then 'SETTLED' else h.state end = any($2)",
                place("u.hold_id"),
                by("u")
            ));
        }
        if any(&[State::Settled]) {
            if self.user.is_some() || self.key.is_some() {
                sources.push(of_hold("and h.state = 'SETTLED'"));
            } else {
                // The entry of a charge has the id of its hold.
                sources.push(format!(
                    "entry e join hold h on h.org_id = e.org_id and h.hold_id = e.entry_id where e.org_id = $1 and {} \
                     and e.kind = 'consume'",
                    place("e.entry_id")
                ));
            }
            if self.as_shown && !unpaid {
                sources.push(format!(
                    "entry e join hold h on h.org_id = e.org_id and h.hold_id = e.hold_id where e.org_id = $1 and {} \
                     and e.kind = 'correct' and e.seq = 1 and h.late = 'charged'",
                    place("e.hold_id")
                ));
            }
        }
        sources
    }

    /// Whether a list looks at a bounded number of tasks for those that match, and goes on behind them.
    pub fn looks_on(&self) -> bool {
        self.label.is_some() || self.task_type.is_some()
    }

    /// The parameter that holds the type: behind those of a label.
    fn type_parameter(&self) -> &'static str {
        if self.label.is_some() { "$13" } else { "$11" }
    }

    /// The ids of the page, newest first.
    fn page(&self, sources: &[String]) -> String {
        let id = if self.label.is_some() { "labelled.hold_id" } else { "h.hold_id" };
        let of_sources = |columns: &str, more: &str, limit: &str| {
            let parts = sources.iter().map(|source| {
                format!("(select {id} as id{columns} from {source} {WANTED} {more} order by {id} desc limit {limit})")
            });
            parts.collect::<Vec<_>>().join(" union all ")
        };
        let number = self.type_parameter();
        match (&self.task_type, &self.label) {
            (None, _) => of_sources("", "", "$10"),
            (Some(_), Some(_)) => of_sources("", &format!("and h.task_type = {number}"), "$10"),
            (Some(_), None) => {
                let all = of_sources(", h.task_type", "", &TYPED.to_string());
                format!(
                    "select id from (select id, task_type from ({all}) every order by id desc limit {TYPED}) looked \
                         where task_type = {number}"
                )
            }
        }
    }

    /// No listed id is this one or a newer one.
    fn newest(&self) -> Uuid {
        let cursor = self.before.map_or(Uuid::max(), HoldId::as_uuid);
        self.until.map_or(cursor, |until| cursor.min(first_of(until.saturating_add(CLOCKS_DIFFER))))
    }

    /// No listed id is older than this one.
    fn oldest(&self) -> Uuid {
        self.since.map_or(Uuid::nil(), |since| first_of(since.saturating_sub(CLOCKS_DIFFER)))
    }
}

/// The first id that can be made at this instant: ids begin with the milliseconds since 1970.
fn first_of(at: OffsetDateTime) -> Uuid {
    let ms = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Uuid::from_u64_pair(ms.min((1 << 48) - 1) << 16, 0)
}

impl Database {
    /// The newest tasks of `org` that match `filter`, with their `data` only where it is short. Reads about as many rows as it returns, however
    /// long the history of the organisation is.
    pub async fn tasks(&self, org: OrgId, filter: &TaskFilter, limit: u32) -> Result<Vec<Task>, StoreError> {
        let sources = filter.sources();
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let statement = format!(
            "select {COLUMNS}, {LABELS}, {SMALL} from (select id from ({}) listed order by id desc limit $10) page \
             join task on task.org_id = $1 and task.hold_id = page.id {SMALL_CONTENT} \
             where $2::text[] is null or case when $9 and late = 'open' then 'RUNNING' \
             when $9 and late = 'charged' then 'SETTLED' else state end = any($2) order by hold_id desc",
            filter.page(&sources)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(org.as_uuid())
            .bind(&filter.states)
            .bind(filter.newest())
            .bind(filter.oldest())
            .bind(filter.user.map(UserId::as_uuid))
            .bind(filter.key.map(KeyId::as_uuid))
            .bind(filter.since)
            .bind(filter.until)
            .bind(filter.as_shown)
            .bind(i64::from(limit))
            // Planned anew each time: a plan for any user and key would go through the history for those who have little.
            .persistent(false);
        if let Some((name, value)) = &filter.label {
            query = query.bind(name).bind(value);
        }
        if let Some(task_type) = &filter.task_type {
            query = query.bind(task_type);
        }
        let rows = query.fetch_all(self.pool()).await?;
        rows.iter().map(task).collect()
    }

    /// How far a list by a label or a type has looked: older tasks may match as well. `None`: it has looked at all of them, or looks
    /// at those alone that match.
    pub async fn looked_until(&self, org: OrgId, filter: &TaskFilter) -> Result<Option<HoldId>, StoreError> {
        match &filter.label {
            Some(label) => self.looked_by_label(org, filter, label).await,
            None if filter.task_type.is_some() => self.looked_by_type(org, filter).await,
            None => Ok(None),
        }
    }

    async fn looked_by_type(&self, org: OrgId, filter: &TaskFilter) -> Result<Option<HoldId>, StoreError> {
        let sources = filter.sources();
        if sources.is_empty() {
            return Ok(None);
        }
        let ids: Vec<String> = sources
            .iter()
            .map(|source| {
                format!(
                    "(select h.hold_id as id from {source} {WANTED} order by h.hold_id desc limit {TYPED})"
                )
            })
            .collect();
        let statement = format!(
            "select id from ({}) every order by id desc offset {} limit 1",
            ids.join(" union all "),
            TYPED.saturating_sub(1)
        );
        let looked: Option<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
            .bind(org.as_uuid())
            .bind(&filter.states)
            .bind(filter.newest())
            .bind(filter.oldest())
            .bind(filter.user.map(UserId::as_uuid))
            .bind(filter.key.map(KeyId::as_uuid))
            .bind(filter.since)
            .bind(filter.until)
            .bind(filter.as_shown)
            .persistent(false)
            .fetch_optional(self.pool())
            .await?;
        Ok(looked.map(HoldId::from_uuid))
    }

    async fn looked_by_label(
        &self,
        org: OrgId,
        filter: &TaskFilter,
        (name, value): &(String, String),
    ) -> Result<Option<HoldId>, StoreError> {
        let looked: Option<Uuid> = sqlx::query_scalar(
            "select l.hold_id from label l where l.org_id = $1 and l.name = $4 and l.value = $5 and l.hold_id < $2 \
             and l.hold_id >= $3 order by l.hold_id desc offset $6 limit 1",
        )
        .bind(org.as_uuid())
        .bind(filter.newest())
        .bind(filter.oldest())
        .bind(name)
        .bind(value)
        .bind(LABELLED - 1)
        .persistent(false)
        .fetch_optional(self.pool())
        .await?;
        Ok(looked.map(HoldId::from_uuid))
    }
}
