//! Monthly statements of an organisation: one line for each entry, and sums that add up.
//!
//! A month begins and ends by the clock of the organisation's time zone. Opening balance + lines = closing balance,
//! which is the sum of all entries up to the end of the month; in the current month it is what the organisation has
//! now, available and held. The opening balance is calculated back from the present balance, in the snapshot that
//! counts the lines, by the sums of [`totals`]: a month long ago costs a little more than this month.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use sqlx::Row;
use time::{Date, Month as MonthOfYear, OffsetDateTime};
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::ids::{EntryId, OrgId};
use crate::store::books::entries::{COLUMNS, Entry, EntryPosition, STORED, TABLES, entry};
use crate::store::books::totals;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::ledger::entry_kind::EntryKind;

/// A month of a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month(Date);

impl Month {
    pub const fn first_day(self) -> Date {
        self.0
    }
}

impl FromStr for Month {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let parse = || {
            let (year, month) =
                text.split_once('-').filter(|(year, month)| year.len() == 4 && month.len() == 2)?;
            let digits =
                |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
            let month = MonthOfYear::try_from(u8::try_from(digits(month)?).ok()?).ok()?;
            Date::from_calendar_date(digits(year)?, month, 1).ok().filter(|day| day.year() > 0)
        };
        parse()
            .map(Self)
            .ok_or_else(|| StoreError::Invalid(format!("'{text}' is not a month, such as 2026-11")))
    }
}

impl utoipa::PartialSchema for Month {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[0-9]{4}-(0[1-9]|1[0-2])$"))
            .description(Some("A month of a year"))
            .into()
    }
}

impl ToSchema for Month {}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), u8::from(self.0.month()))
    }
}

impl Serialize for Month {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The statement of one month, without its lines.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Statement {
    pub org_id: OrgId,
    pub org_name: String,
    pub month: Month,
    /// The organisation's time zone, by whose clock the month begins and ends.
    pub time_zone: String,
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    /// The first instant of the next month.
    #[serde(with = "time::serde::rfc3339")]
    pub ends_at: OffsetDateTime,
    /// What the organisation had when the month began, held credits included.
    pub opening: Credits,
    /// What the organisation had when the month ended; in the current month: what it has now.
    pub closing: Credits,
    /// Entries of the month, those in an archive included.
    pub lines: i64,
    /// Charges among them that are in an archive. In place of them there is a line for what each key was charged on a day for tasks
    /// of a type.
    pub archived: i64,
    /// Sums by kind of entry; a kind without entries is omitted.
    pub totals: Vec<Total>,
    /// In the current month: the part of the closing balance that is available; null: the month is over.
    pub available: Option<Credits>,
    /// In the current month: the part of the closing balance that open tasks hold; null: the month is over.
    pub held: Option<Credits>,
    /// The last line. Entries that are added while the lines are read come after it and are not part of the statement.
    #[serde(skip)]
    pub last: Option<EntryPosition>,
}

/// All lines of one kind of entry.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, ToSchema)]
pub struct Total {
    pub kind: EntryKind,
    pub lines: i64,
    pub credits: Credits,
}

/// An entry, and the balance after it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Line {
    #[serde(flatten)]
    pub entry: Entry,
    /// The opening balance plus all lines up to this one.
    pub balance: Credits,
}

impl Database {
    /// The statement of `org` for a month, without its lines. `NotFound` if the month has not begun.
    pub async fn statement(&self, org: OrgId, month: Month) -> Result<Statement, StoreError> {
        // A month of a clock that is not set by quarters of an hour is read from the entries themselves.
        let booked = totals::booked_since("m.starts_at", "m.aligned");
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with o as ( \
                 select o.org_id, o.name, o.time_zone, $2::timestamp at time zone o.time_zone as starts_at, \
                        ($2::timestamp + interval '1 month') at time zone o.time_zone as ends_at from org o where o.org_id = $1 \
             ), m as materialized ( \
                 select o.*, (extract(epoch from o.starts_at) % 900, extract(epoch from o.ends_at) % 900) = (0, 0) as aligned from o \
             ) \
             select m.*, now() < m.starts_at as unborn, now() < m.ends_at as goes_on, b.available, b.held, t.*, \
                    l.created_at as last_at, l.entry_id as last_entry, \
                    (select coalesce(sum(a.tasks), 0)::bigint from archived_charge a where a.org_id = m.org_id \
                       and a.created_at >= m.starts_at and a.created_at < m.ends_at) as archived, \
                    b.granted - b.consumed - t.since as opening \
             from m join org_balance b on b.org_id = m.org_id cross join lateral ( \
                 select coalesce(array_agg(k.kind order by k.kind) filter (where k.inside), '{{}}') as kinds, \
                        coalesce(array_agg(k.lines order by k.kind) filter (where k.inside), '{{}}') as lines, \
                        coalesce(array_agg(k.credits order by k.kind) filter (where k.inside), '{{}}') as credits, \
                        coalesce(sum(k.credits), 0)::bigint as since \
                 from (select e.kind, e.at < m.ends_at as inside, sum(e.lines)::bigint as lines, sum(e.amount)::bigint as credits \
                       from {booked} e group by 1, 2) k) t left join lateral ( \
                 select e.created_at, e.entry_id from booked e \
                 where e.org_id = m.org_id and e.created_at >= m.starts_at and e.created_at < m.ends_at \
                 order by e.created_at desc, e.entry_id desc limit 1) l on true"
        )))
        .bind(org.as_uuid())
        .bind(month.first_day())
        // Planned anew: how much there is behind the sums is not known before.
        .persistent(false)
        .fetch_optional(self.pool())
        .await?
        .ok_or_else(|| StoreError::NotFound(format!("there is no organisation {org}")))?;
        if row.try_get("unborn")? {
            return Err(StoreError::NotFound(format!("{month} has not begun")));
        }
        let kinds: Vec<EntryKind> = row.try_get("kinds")?;
        let (lines, sums): (Vec<i64>, Vec<i64>) = (row.try_get("lines")?, row.try_get("credits")?);
        let total = |(kind, (&lines, credits))| Total { kind, lines, credits: Credits::new(credits) };
        let totals: Vec<Total> = kinds.into_iter().zip(lines.iter().zip(sums)).map(total).collect();
        let opening = Credits::new(row.try_get("opening")?);
        let closing = totals.iter().try_fold(opening, |sum, total| sum.checked_add(total.credits));
        let goes_on: bool = row.try_get("goes_on")?;
        let now = |column| row.try_get(column).map(|credits| goes_on.then(|| Credits::new(credits)));
        Ok(Statement {
            org_id: org,
            org_name: row.try_get("name")?,
            month,
            time_zone: row.try_get("time_zone")?,
            starts_at: row.try_get("starts_at")?,
            ends_at: row.try_get("ends_at")?,
            opening,
            closing: closing.ok_or(StoreError::Corrupt("the sum of a statement".into()))?,
            lines: lines.iter().sum(),
            archived: row.try_get("archived")?,
            totals,
            available: now("available")?,
            held: now("held")?,
            last: match (row.try_get("last_at")?, row.try_get("last_entry")?) {
                (Some(at), Some(entry)) => Some(EntryPosition { at, entry: EntryId::from_uuid(entry) }),
                _ => None,
            },
        })
    }

    /// Lines of a statement, oldest first, from behind `after` up to the statement's last line. The order is final,
    /// because an organisation's entries are dated under the lock of its balance row, in the order they are committed
    /// in. `balance` is the balance before the first of these lines; `None`: it is calculated back from now.
    pub async fn statement_lines(
        &self,
        of: &Statement,
        after: Option<EntryPosition>,
        balance: Option<Credits>,
        limit: u32,
    ) -> Result<Vec<Line>, StoreError> {
        let Some(last) = of.last else { return Ok(Vec::new()) };
        // What was booked since `after` is what was booked in the rest of its quarter of an hour, and since then. What is in an archive
        // has other times among the lines than in the sums.
        let booked = totals::booked_since("q.ends_at", "q.exact");
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, (coalesce($5, (select b.granted - b.consumed - coalesce((select sum(r.amount) from booked r \
                 where r.org_id = $1 and r.created_at >= $2 and r.created_at < q.ends_at \
                 and ($6::timestamptz is null or (r.created_at, r.entry_id) > ($6, $7))), 0) \
                 - coalesce((select sum(r.amount) from {booked} r), 0) from org_balance b \
                 cross join (select date_bin('15 minutes', coalesce($6, $2), '2000-01-01Z') + interval '15 minutes' as ends_at, \
                   not exists (select from archived_charge a where a.org_id = $1 and a.created_at >= coalesce($6, $2)) as exact) q \
                 where b.org_id = $1)) + e.so_far)::bigint as balance \
             from (select e.*, sum(e.amount) over (order by e.created_at, e.entry_id) as so_far \
                   from (select {STORED} from booked e where e.org_id = $1 and e.created_at >= $2 and (e.created_at, e.entry_id) <= ($3, $8) \
                         and (e.created_at, e.entry_id) > (coalesce($6, '-infinity'), coalesce($7, '00000000-0000-0000-0000-000000000000')) \
                         order by e.created_at, e.entry_id limit $4) e) e {TABLES} order by e.created_at, e.entry_id"
        )))
        .bind(of.org_id.as_uuid())
        .bind(of.starts_at)
        .bind(last.at)
        .bind(i64::from(limit))
        .bind(balance.or(after.is_none().then_some(of.opening)).map(Credits::get))
        .bind(after.map(|place| place.at))
        .bind(after.map(|place| place.entry.as_uuid()))
        .bind(last.entry.as_uuid())
        .persistent(false)
        .fetch_all(self.pool())
        .await?;
        let line = |row| Ok(Line { entry: entry(row)?, balance: Credits::new(row.try_get("balance")?) });
        rows.iter().map(line).collect()
    }
}
