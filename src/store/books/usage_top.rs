//! The groups that consumed most, and all others as one line: of an organisation with any number of keys and users.

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::Date;

use super::totals;
use super::usage::{Source, Usage, UsageBy, UsageFilter, filtered, usage};
use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// Users or keys of whole months: those that were among the first `$8` of one of the months `$9`, and those of the entries behind the
/// sums. A user that was never among the first of a month is not found, however much several months of its come to.
///
/// `{member}`: the column of an entry, `{kind}` the word of usage_member.
const OF_MONTHS: &str = "\
    tail as materialized ( \
      select coalesce(e.{member}, '00000000-0000-0000-0000-000000000000') as id, count(*) filter (where e.kind = 'consume') as tasks, \
        -sum(e.amount) filter (where e.kind = 'consume') as charged, -sum(e.amount) filter (where e.kind = 'correct') as corrected \
      from entries_behind($1) e where e.kind in ('consume', 'correct') and (e.created_at at time zone 'UTC')::date between $2 and $3 group by 1), \
    chosen as materialized ( \
      select t.id from tail t \
      union \
      select m.member_id from unnest($9::date[]) w(month) cross join lateral ( \
        select u.member_id from usage_member u where u.org_id = $1 and u.kind = '{kind}' and u.month = w.month \
        order by u.charged + u.corrected desc, u.member_id limit $8) m), \
    grouped as materialized ( \
      select k.id, sum(k.tasks) as tasks, sum(k.charged) as charged, sum(k.corrected) as corrected from ( \
        select u.member_id as id, u.tasks, u.charged, u.corrected from chosen c cross join unnest($9::date[]) w(month) \
          join usage_member u on u.org_id = $1 and u.kind = '{kind}' and u.month = w.month and u.member_id = c.id \
        union all \
        select t.id, t.tasks, t.charged, t.corrected from tail t) k group by k.id)";

/// So many rows of the roll-up are summed up while one waits.
const MOST_ROWS: i64 = 100_000;

impl Database {
    /// Usage of the `most` groups that consumed most, the greatest first, and a line for all others if there are others. Of users and
    /// keys in whole months it takes no longer the more of them there are: then the others have consumed more only if they did so in
    /// several months, and were not among the first of any.
    pub async fn top_usage(
        &self,
        filter: &UsageFilter,
        by: UsageBy,
        most: u32,
    ) -> Result<Vec<Usage>, StoreError> {
        let months = self.months_of(filter, by).await?;
        let column = by.column();
        let source = Source::of(filter, &[by]);
        if months.is_none() && source == Source::Days && matches!(by, UsageBy::User | UsageBy::Key) {
            self.refuse_many(filter).await?;
        }
        let (grouped, all) = if months.is_some() {
            let kind = if by == UsageBy::User { "user" } else { "key" };
            (
                OF_MONTHS.replace("{member}", column).replace("{kind}", kind),
                totals::USAGE.to_owned() + " known",
            )
        } else {
            let (table, condition) = (source.table(), source.condition(filter));
            let grouped = format!(
                "grouped as materialized (select {column} as id, sum(tasks) as tasks, sum(charged) as charged, \
                 sum(corrected) as corrected from {table} where {condition} and $9::date[] is null group by {column})"
            );
            (grouped, "grouped".to_owned())
        };
        let range = if months.is_some() {
            "where day between $2 and $3 and $4::uuid is null and $5::uuid is null \
             and $6::uuid is null and $7::text is null"
        } else {
            ""
        };
        let name = match by {
            UsageBy::Team => "(select t.name from team t where t.team_id = g.id)",
            UsageBy::User => "(select u.name from app_user u where u.user_id = g.id)",
            UsageBy::Key => "(select k.name from api_key k where k.key_id = g.id)",
            UsageBy::Org => "(select o.name from org o where o.org_id = g.id)",
            _ => "null::text",
        };
        let top = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with {grouped}, everything as (select coalesce(sum(tasks), 0)::bigint as tasks, saturated(sum(charged)) as charged, \
               saturated(sum(corrected)) as corrected, saturated(sum(charged + corrected)) as consumed from {all} {range}), \
             top as (select id, coalesce(tasks, 0)::bigint as tasks, saturated(charged) as charged, saturated(corrected) as corrected, \
               saturated(coalesce(charged, 0) + coalesce(corrected, 0)) as consumed from grouped order by consumed desc, id limit $8) \
             select g.id as {column}, g.tasks, g.charged, g.corrected, g.consumed, {name} as name, a.tasks as all_tasks, \
               a.charged as all_charged, a.corrected as all_corrected, a.consumed as all_consumed \
             from everything a left join top g on true order by g.consumed desc nulls last, g.id"
        )));
        let rows = filtered(top, filter, &[by], most).bind(months).fetch_all(self.pool()).await?;
        with_others(&rows, by)
    }

    /// Of days that are no whole months, users and keys are summed up while one waits: not hundreds of thousands of them.
    async fn refuse_many(&self, filter: &UsageFilter) -> Result<(), StoreError> {
        let rows: i64 = sqlx::query_scalar(
            "select count(*) from (select from usage_day u where ($1::uuid is null or u.org_id = $1) and u.day between $2 and $3 limit $4) u",
        )
        .bind(filter.org.map(OrgId::as_uuid))
        .bind(filter.from)
        .bind(filter.to)
        .bind(MOST_ROWS.saturating_add(1))
        .persistent(false)
        .fetch_one(self.pool())
        .await?;
        if rows > MOST_ROWS {
            let why = "so many users and keys are summed up by whole months: from the first day of a month to the last of one, or today";
            return Err(StoreError::Invalid(why.into()));
        }
        Ok(())
    }

    /// The months (first days) that the filter asks for, if it asks for users or keys of whole months of an organisation that has
    /// sums.
    async fn months_of(&self, filter: &UsageFilter, by: UsageBy) -> Result<Option<Vec<Date>>, StoreError> {
        let Some(org) = filter.org else { return Ok(None) };
        let narrowed = filter.team.is_some()
            || filter.user.is_some()
            || filter.key.is_some()
            || filter.task_type.is_some();
        if narrowed || !matches!(by, UsageBy::User | UsageBy::Key) || filter.from.day() != 1 {
            return Ok(None);
        }
        let months: Option<Vec<Date>> = sqlx::query_scalar(
            "select array(select m.month::date from generate_series( \
               greatest($2, (select min(u.month) from usage_member u where u.org_id = $1 and u.kind = 'key'))::timestamp, \
               least($3, (now() at time zone 'UTC')::date)::timestamp, interval '1 month') m(month)) \
             from total_place p where p.org_id = $1 and p.place is not null \
               and ($3 >= (now() at time zone 'UTC')::date or extract(day from $3 + 1) = 1)",
        )
        .bind(org.as_uuid())
        .bind(filter.from)
        .bind(filter.to)
        .fetch_optional(self.pool())
        .await?;
        Ok(months)
    }
}

/// The lines, and behind them what is missing from the sum of all.
fn with_others(rows: &[PgRow], by: UsageBy) -> Result<Vec<Usage>, StoreError> {
    let mut found = Vec::with_capacity(rows.len().saturating_add(1));
    let mut others: Option<[i64; 4]> = None;
    for row in rows {
        let rest = match others {
            Some(rest) => rest,
            None => [
                row.try_get("all_tasks")?,
                row.try_get("all_charged")?,
                row.try_get("all_corrected")?,
                row.try_get("all_consumed")?,
            ],
        };
        // Without any group there is the sum of all alone.
        if row.try_get::<Option<i64>, _>("consumed")?.is_none() {
            return Ok(found);
        }
        let line = Usage { name: row.try_get("name")?, ..usage(row, &[by])? };
        let shown = [line.tasks, line.charged.get(), line.corrected.get(), line.consumed.get()];
        let mut left = rest;
        for (left, shown) in left.iter_mut().zip(shown) {
            *left = left.saturating_sub(shown);
        }
        others = Some(left);
        found.push(line);
    }
    if let Some([tasks, charged, corrected, consumed]) =
        others.filter(|left| left.iter().any(|left| *left != 0))
    {
        found.push(Usage {
            tasks,
            charged: Credits::new(charged),
            corrected: Credits::new(corrected),
            consumed: Credits::new(consumed),
            name: Some("all others".into()),
            others: true,
            ..Usage::default()
        });
    }
    Ok(found)
}
