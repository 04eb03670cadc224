//! Content: what the vendor said about tasks, and excerpts of the requests of unfinished ones. It is not money: it is written
//! outside the ledger's batches, over connections of its own, and can be erased without a change to a balance, an entry or the
//! verdict of the audit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use tokio::sync::{Mutex, mpsc, oneshot};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ids::{HoldId, OrgId};
use crate::order::Excerpt;
use crate::shares::Shares;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::shared::SharedDatabase;
use crate::store::ledger::tasks::{State, Task};
use crate::strict;

/// The connections for content. Megabytes that one organisation's tasks bring take at most half of them.
pub const CONTENT_CONNECTIONS: u32 = 6;

/// The most bytes of a text that shares a statement with others, how many do, and how many may wait for it.
const SHORT: usize = 16 << 10;
const TOGETHER: usize = 64;
const WAITING: usize = 1_024;

/// So many statements with short texts run at a time.
const WRITERS: usize = 2;

/// Texts of more bytes are stored one at a time, organisations in turns, over a connection that is theirs: the database compresses
/// each, and writes it to its log.
const LARGE: usize = 256 << 10;
const CONNECTIONS_OF_LARGE: usize = 1;

/// How long a large text waits for its turn. Whoever gives up has to ask the vendor for all of it again.
const TURN_OF_LARGE: Duration = Duration::from_secs(10);

/// How long what was stored last waits to be read, however soon it would have to be erased: it may have been paid for.
const UNREAD_FOR: Duration = Duration::from_secs(3600);

/// How long what was read, and is not kept, can be read again: the answer may not have arrived.
const READ_AGAIN_FOR: Duration = Duration::from_secs(60);

/// The most tasks whose content one statement erases. Each may have megabytes.
const SOME: i64 = 100;

/// Whether the task of a hold `h` goes on.
const GOES_ON: &str = "exists (select from open_task o where o.org_id = h.org_id and o.hold_id = h.hold_id)";

/// The most excerpts that one statement erases.
const MANY: i64 = 10_000;

/// Erases the excerpts of the holds in `ended (org_id, hold_id)`. Rows that have nothing else go.
const FORGET: &str = "\
    , gone as (delete from content c using ended e where c.org_id = e.org_id and c.hold_id = e.hold_id \
        and c.first is null and c.last is null and c.erase_at is null) \
    update content c set excerpt = null, digests = null from ended e where c.org_id = e.org_id and c.hold_id = e.hold_id \
    and (c.first is not null or c.last is not null or c.erase_at is not null)";

/// Texts of several tasks.
const SEVERAL: &str =
    "unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) n(org_id, hold_id, data, digests)";

/// A text of one task, which is copied less often than one in an array, and compressed by what is quickest where the database has it.
const ONE: &str = "\
    (select $1::uuid, $2::uuid, $3::text, $4::text, max(set_config(name, 'lz4', true)) from pg_settings \
     where name = 'default_toast_compression' and 'lz4' = any(enumvals)) n(org_id, hold_id, data, digests, compression)";

/// What a text is, which says where it is stored and what else is done in its statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextKind {
    /// The excerpt of a create that is being sent.
    Request,
    /// The vendor's answer to the create.
    First,
    Progress,
    End,
    /// The create was refused: its excerpt goes.
    Refused,
}

impl TextKind {
    /// The statement that stores texts of this kind, which come from `texts`.
    fn statement(self, texts: &str) -> String {
        let seconds = UNREAD_FOR.as_secs();
        let quick = "cross join (select set_config('synchronous_commit', 'off', true)) quick";
        let (columns, values, quick, update) = match self {
            Self::Request => (
                "excerpt, digests",
                "n.data, n.digests::jsonb",
                // What a killed gateway has stored is there; only a crash of the database at this instant loses it.
                quick,
                "excerpt = excluded.excerpt, digests = excluded.digests where not content.ended".into(),
            ),
            Self::Refused => {
                return format!(
                    "with ended as (select n.org_id, n.hold_id from {texts} \
                     join hold h on h.org_id = n.org_id and h.hold_id = n.hold_id where not {GOES_ON}){FORGET}"
                );
            }
            Self::First => (
                "first",
                "n.data",
                "",
                "first = excluded.first, updated_at = now() where not content.ended".into(),
            ),
            Self::Progress => (
                "last",
                "n.data",
                "",
                "last = excluded.last, updated_at = now() where not content.ended".into(),
            ),
            Self::End => (
                "last, ended",
                "n.data, true",
                // The transaction of the step that follows makes durable what was committed before it: no need to wait here.
                quick,
                format!(
                    "last = excluded.last, ended = true, excerpt = null, digests = null, updated_at = now(), erase_at = \
                     case when content.erase_at is not null then now() + interval '{seconds} seconds' end"
                ),
            ),
        };
        // The vendor's reports are about its task: a hold that has none any more keeps none of them.
        let known = match self {
            Self::Progress | Self::End => "and o.upstream_task is not null",
            Self::Request | Self::First | Self::Refused => "",
        };
        format!(
            "insert into content (org_id, hold_id, {columns}) select n.org_id, n.hold_id, {values} from {texts} \
             cross join lateral (select from open_task o where o.org_id = n.org_id and o.hold_id = n.hold_id {known} limit 1) open \
             {quick} order by n.org_id, n.hold_id on conflict (org_id, hold_id) do update set {update}"
        )
    }
}

/// A text on its way to a statement that stores several.
#[derive(Debug)]
struct PendingText {
    org: OrgId,
    hold: HoldId,
    kind: TextKind,
    data: Box<str>,
    /// The digests that belong to an excerpt; of other kinds: empty.
    digests: Box<str>,
    /// Whether it is stored; if not, whoever sent it stores it alone.
    stored: oneshot::Sender<bool>,
}

/// Writes content. Short texts share statements with whatever else waits; for others organisations take turns.
#[derive(Debug, Clone)]
pub struct Contents {
    database: SharedDatabase<OrgId>,
    short: mpsc::Sender<PendingText>,
    large: LargeTexts,
}

/// The place of large texts, which whoever has it does not leave while its statement runs.
#[derive(Debug, Clone)]
struct LargeTexts {
    database: Database,
    turns: Arc<Shares<OrgId>>,
}

impl LargeTexts {
    async fn turn_of(&self, org: OrgId) -> Result<Database, StoreError> {
        let turn = tokio::time::timeout(TURN_OF_LARGE, self.turns.wait(org, 1)).await;
        let turn = turn.map_err(|_| StoreError::Timeout)?.map_err(|_| StoreError::QueueFull)?;
        Ok(self.database.keeping(Arc::new(turn)))
    }
}

impl Contents {
    /// Starts the writers, which end with the last handle. Needs a Tokio runtime.
    pub fn start(database: Database) -> Self {
        let (short, notes) = mpsc::channel(WAITING);
        let notes = Arc::new(Mutex::new(notes));
        for _ in 0..WRITERS {
            tokio::spawn(write_together(database.clone(), notes.clone()));
        }
        let turns = Shares::with_queue(CONNECTIONS_OF_LARGE, WAITING, metrics::Gauge::noop());
        let large = LargeTexts { database: database.clone(), turns };
        let database = SharedDatabase::with_turns_at_all_but(CONNECTIONS_OF_LARGE, database);
        Self { database, short, large }
    }

    /// Stores the excerpt of a create that is being sent. It is there until the task has ended.
    pub async fn note_request(&self, org: OrgId, hold: HoldId, excerpt: Excerpt) -> Result<(), StoreError> {
        self.write(TextKind::Request, org, hold, &excerpt.fields, &excerpt.digests).await
    }

    /// Erases the excerpt of a create that was refused, soon: if too much waits, when old content is erased.
    pub fn forget_request(&self, org: OrgId, hold: HoldId) {
        let (data, digests) = Default::default();
        let (stored, _) = oneshot::channel();
        let _ =
            self.short.try_send(PendingText { org, hold, kind: TextKind::Refused, data, digests, stored });
    }

    /// Stores the vendor's `data` of its answer to a create.
    pub async fn note_first(&self, org: OrgId, hold: HoldId, data: &str) -> Result<(), StoreError> {
        self.write(TextKind::First, org, hold, data, "").await
    }

    /// Stores the `data` of a report that did not end the task, unless its end is stored.
    pub async fn note_progress(&self, org: OrgId, hold: HoldId, data: &str) -> Result<(), StoreError> {
        self.write(TextKind::Progress, org, hold, data, "").await
    }

    /// Stores the `data` of the report that ends the task, unless it has ended. The step that ends it comes afterwards: a
    /// settled task whose result is lost would be a loss for its owner.
    pub async fn note_end(&self, org: OrgId, hold: HoldId, data: &str) -> Result<(), StoreError> {
        self.write(TextKind::End, org, hold, data, "").await
    }

    async fn write(
        &self,
        kind: TextKind,
        org: OrgId,
        hold: HoldId,
        data: &str,
        digests: &str,
    ) -> Result<(), StoreError> {
        if data.len() + digests.len() <= SHORT {
            let (stored, answer) = oneshot::channel();
            let note = PendingText { org, hold, kind, data: data.into(), digests: digests.into(), stored };
            if self.short.try_send(note).is_ok() && answer.await.unwrap_or(false) {
                return Ok(());
            }
        }
        let stored = sqlx::query(sqlx::AssertSqlSafe(kind.statement(ONE))).bind(org.as_uuid());
        let stored = stored.bind(hold.as_uuid()).bind(data).bind(digests);
        if data.len() > LARGE {
            // Whoever has the place waits for nothing of its organisation's.
            stored.execute(self.large.turn_of(org).await?.pool()).await?;
        } else {
            stored.execute(self.database.turn_of(org).await?.pool()).await?;
        }
        Ok(())
    }

    /// Notes, before a create is sent, that none of its content is kept after its task has ended.
    pub async fn keep_none(&self, org: OrgId, hold: HoldId) -> Result<(), StoreError> {
        let turn = self.database.turn_of(org).await?;
        let note = sqlx::query(
            "insert into content (org_id, hold_id, erase_at) values ($1, $2, 'infinity') \
             on conflict (org_id, hold_id) do update set erase_at = coalesce(content.erase_at, 'infinity')",
        );
        note.bind(org.as_uuid()).bind(hold.as_uuid()).execute(turn.pool()).await?;
        Ok(())
    }

    /// Erases what is stored about a task. Of a task that goes on nothing is kept after its end; an end that is stored and not
    /// recorded yet can still be read for a while.
    pub async fn erase(&self, org: OrgId, hold: HoldId) -> Result<(), StoreError> {
        let turn = self.database.turn_of(org).await?;
        // The row stays, so that nothing is stored again, until it is as old as content may become.
        let erase = sqlx::query(sqlx::AssertSqlSafe(format!(
            "insert into content (org_id, hold_id, ended, erase_at) \
             select h.org_id, h.hold_id, not {GOES_ON}, case when {GOES_ON} then 'infinity' else '-infinity' end::timestamptz from hold h where h.org_id = $1 and h.hold_id = $2 \
             on conflict (org_id, hold_id) do update set first = null, \
                 excerpt = case when not content.ended and not excluded.ended then content.excerpt end, \
                 digests = case when not content.ended and not excluded.ended then content.digests end, \
                 last = case when content.ended and not excluded.ended then content.last end, \
                 erase_at = case when content.ended and not excluded.ended then now() + interval '{} seconds' \
                                 else excluded.erase_at end, \
                 ended = content.ended or excluded.ended, updated_at = now()",
            UNREAD_FOR.as_secs()
        )));
        erase.bind(org.as_uuid()).bind(hold.as_uuid()).execute(turn.pool()).await?;
        Ok(())
    }

    /// Notes that the end of `task` was read as it is: if nothing is kept of it, it is erased soon.
    pub async fn note_read(&self, task: &Task) -> Result<(), StoreError> {
        let turn = self.database.turn_of(task.org).await?;
        let note = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update content c set erase_at = least(c.erase_at, now() + interval '{} seconds') from hold h \
             where c.org_id = $1 and c.hold_id = $2 and c.erase_at > '-infinity' \
             and h.org_id = c.org_id and h.hold_id = c.hold_id and h.state = $3 and h.late is not distinct from $4",
            READ_AGAIN_FOR.as_secs()
        )));
        let note = note.bind(task.org.as_uuid()).bind(task.hold.as_uuid()).bind(task.state).bind(task.late);
        note.execute(turn.pool()).await?;
        Ok(())
    }

    /// Sets the gauges of the pool.
    pub fn show_pool(&self) {
        self.database.show_pool("content");
    }
}

/// Rows of `content` of tasks that have ended, which are as old as their organisation keeps them, or else `$1` days; at most
/// `$2`. Read in the order of age, of which the ids of holds are made, from the index of each organisation.
const OLD: &str = "\
    select c.org_id, c.hold_id from org o \
    cross join lateral (select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint \
        - coalesce(o.content_days, $1)::bigint * 86400000), 12, '0') || repeat('0', 20))::uuid as newer) young \
    cross join lateral (select old.org_id, old.hold_id from content old \
        join hold h on h.org_id = old.org_id and h.hold_id = old.hold_id \
        where old.org_id = o.org_id and old.hold_id < young.newer and old.updated_at < now() - $3 * interval '1 second' \
        and h.state is not null and h.late is distinct from 'open' \
        order by old.hold_id limit $2) c \
    limit $2";

/// Rows of `content` of tasks that have ended, of which nothing is kept: they were read, or waited long enough to be read.
const UNKEPT: &str = "\
    select c.org_id, c.hold_id from content c join hold h on h.org_id = c.org_id and h.hold_id = c.hold_id \
    where c.erase_at > '-infinity' \
    and (c.erase_at < now() or (c.erase_at = 'infinity' and h.ended_at < now() - $2 * interval '1 second')) \
    and h.state is not null and h.late is distinct from 'open' limit $1";

/// At most `$1` holds that have ended and still have an excerpt.
const ENDED: &str = "\
    select c.org_id, c.hold_id from content c join hold h on h.org_id = c.org_id and h.hold_id = c.hold_id \
    where c.excerpt is not null and h.state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') and h.late is distinct from 'open' limit $1";

/// Stores short texts until nobody can send any more: all that wait, of one kind after the other.
async fn write_together(database: Database, notes: Arc<Mutex<mpsc::Receiver<PendingText>>>) {
    loop {
        let mut some = Vec::with_capacity(TOGETHER);
        if notes.lock().await.recv_many(&mut some, TOGETHER).await == 0 {
            return;
        }
        for kind in [TextKind::Request, TextKind::First, TextKind::Progress, TextKind::End, TextKind::Refused]
        {
            // One statement stores one text for a hold: of several the last counts.
            let latest: BTreeMap<_, _> = some
                .iter()
                .filter(|note| note.kind == kind)
                .map(|note| ((note.org.as_uuid(), note.hold.as_uuid()), (&*note.data, &*note.digests)))
                .collect();
            if latest.is_empty() {
                continue;
            }
            let (orgs, holds): (Vec<Uuid>, Vec<Uuid>) = latest.keys().copied().unzip();
            let (data, digests): (Vec<&str>, Vec<&str>) = latest.values().copied().unzip();
            let stored = sqlx::query(sqlx::AssertSqlSafe(kind.statement(SEVERAL))).bind(orgs).bind(holds);
            let stored = stored.bind(data).bind(digests).execute(database.pool()).await;
            let (done, rest): (Vec<PendingText>, Vec<PendingText>) =
                some.into_iter().partition(|note| note.kind == kind);
            some = rest;
            for note in done {
                // Whoever waited may have gone.
                let _ = note.stored.send(stored.is_ok());
            }
        }
    }
}

impl Database {
    /// Erases content of ended tasks that is older than its organisation keeps it, or else than `days`, content that is not kept
    /// at all, and excerpts of tasks that ended without a report of the vendor's. Some at a time; returns of how many tasks the
    /// content was erased.
    pub async fn erase_old_content(&self, days: u32) -> Result<u64, StoreError> {
        let some_more = |done: u64| i64::try_from(done).is_ok_and(|done| done >= SOME);
        let mut erased = 0;
        loop {
            let old = sqlx::query(sqlx::AssertSqlSafe(format!(
                "with due as ({OLD}) delete from content c using due \
                 where c.org_id = due.org_id and c.hold_id = due.hold_id"
            )));
            let old = old.bind(i64::from(days)).bind(SOME).bind(UNREAD_FOR.as_secs_f64());
            let old = old.execute(self.pool()).await?.rows_affected();
            let unkept = sqlx::query(sqlx::AssertSqlSafe(format!(
                "with due as ({UNKEPT}) update content c set first = null, last = null, ended = true, erase_at = '-infinity' \
                 from due where c.org_id = due.org_id and c.hold_id = due.hold_id"
            )));
            let unkept = unkept.bind(SOME).bind(UNREAD_FOR.as_secs_f64());
            let unkept = unkept.execute(self.pool()).await?.rows_affected();
            erased += old + unkept;
            if !some_more(old) && !some_more(unkept) {
                let ended = sqlx::query(sqlx::AssertSqlSafe(format!("with ended as ({ENDED}){FORGET}")));
                ended.bind(MANY).execute(self.pool()).await?;
                return Ok(erased);
            }
        }
    }

    /// Of how many tasks [`erase_old_content`](Self::erase_old_content) would erase the content now, for its age and because
    /// none is kept.
    pub async fn old_content(&self, days: u32) -> Result<(i64, i64), StoreError> {
        let old = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from ({OLD}) due")));
        let old = old.bind(i64::from(days)).bind(i64::MAX).bind(UNREAD_FOR.as_secs_f64());
        let unkept = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from ({UNKEPT}) due")));
        let unkept = unkept.bind(i64::MAX).bind(UNREAD_FOR.as_secs_f64());
        Ok((old.fetch_one(self.pool()).await?, unkept.fetch_one(self.pool()).await?))
    }

    /// How many days an organisation keeps content; `None`: as many as the platform.
    pub async fn content_days(&self, org: OrgId) -> Result<Option<Option<i32>>, StoreError> {
        let days =
            sqlx::query_scalar("select content_days from org where org_id = $1 and deleted_at is null");
        Ok(days.bind(org.as_uuid()).fetch_optional(self.pool()).await?)
    }
}

/// What is kept of the request of an unfinished task.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UnfinishedRequest {
    pub hold_id: HoldId,
    pub org_id: OrgId,
    pub state: State,
    /// The fields of the request that the gateway knows, with long texts cut; of links the query is left out, of data all.
    #[schema(value_type = Object)]
    pub excerpt: Value,
    /// The SHA-256 of each field's value, in URL-safe base64: of a text its characters, of a number its shortest form.
    #[schema(value_type = Object)]
    pub digests: Value,
}

impl Acting {
    /// What is kept of the request of an unfinished task. That it was read is in the audit log: the statement that reads it
    /// writes that.
    pub async fn read_request(&self, hold: HoldId) -> Result<Option<UnfinishedRequest>, StoreError> {
        // The statement goes through the organisations, which are few: a hold is indexed under its organisation.
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with found as (select c.org_id, c.hold_id, h.state, c.excerpt, c.digests \
                 from (select org_id as owner from org) o cross join lateral \
                 (select org_id, hold_id, excerpt, digests from content own \
                  where own.org_id = o.owner and own.hold_id = $1 and own.excerpt is not null limit 1) c \
                 join task h on h.org_id = c.org_id and h.hold_id = c.hold_id where {GOES_ON}), \
             noted as (insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id) \
                 select who.actor ->> 'actor', who.actor ->> 'address', who.actor ->> 'action', who.actor ->> 'request_id', \
                        $2, found.hold_id::text, found.org_id \
                 from found cross join (select current_setting('tollgate.audit')::jsonb as actor) who) \
             select org_id, state, excerpt, digests from found"
        )));
        let row = row.bind(hold.as_uuid()).bind("hold").fetch_optional(self.change()).await?;
        let Some(row) = row else { return Ok(None) };
        // Not as `jsonb`, which takes no NUL.
        let excerpt: String = row.try_get("excerpt")?;
        let unreadable = |_| StoreError::Corrupt("an excerpt that is no JSON".into());
        Ok(Some(UnfinishedRequest {
            hold_id: hold,
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            state: row.try_get("state")?,
            excerpt: strict::read_json(excerpt.as_bytes()).map_err(unreadable)?,
            digests: row.try_get("digests")?,
        }))
    }

    /// Sets how many days an organisation keeps content; `None`: as many as the platform. Whether there is such an
    /// organisation.
    pub async fn set_content_days(&self, org: OrgId, days: Option<i32>) -> Result<bool, StoreError> {
        let set = sqlx::query("update org set content_days = $2 where org_id = $1 and deleted_at is null");
        let set = set.bind(org.as_uuid()).bind(days).execute(self.change()).await?;
        Ok(set.rows_affected() > 0)
    }
}
