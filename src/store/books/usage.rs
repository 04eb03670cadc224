//! What tasks cost, read from a daily roll-up that a trigger (function `count_entries`) updates in the transaction of
//! each entry; the audit proves that the roll-up equals the entries. Days are UTC days of the charge, whereas
//! statements use the months of the organisation's time zone.
//!
//! The roll-up has a row for each user and key of a day, of which an organisation may have any number: what is asked for without them
//! is read from the sums of [`totals`]. The roll-up knows no labels: usage by a label is summed up from the entries themselves, of one
//! organisation and a month at most.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::Date;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{KeyId, OrgId, TeamId, UserId};
use crate::store::books::totals;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// What usage can be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageBy {
    Org,
    Day,
    /// The team that the user was in at the time of the create.
    Team,
    User,
    Key,
    /// The vendor's task type.
    TaskType,
    /// The value of the label that the filter names.
    Label,
}

impl UsageBy {
    pub const ALL: [Self; 7] =
        [Self::Org, Self::Day, Self::Team, Self::User, Self::Key, Self::TaskType, Self::Label];

    /// The name as callers of the API write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Day => "day",
            Self::Team => "team",
            Self::User => "user",
            Self::Key => "key",
            Self::TaskType => "task_type",
            Self::Label => "label",
        }
    }

    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::Org => "org_id",
            Self::Day => "day",
            Self::Team => "team_id",
            Self::User => "user_id",
            Self::Key => "key_id",
            Self::TaskType => "task_type",
            Self::Label => "label",
        }
    }
}

#[derive(Debug, Clone)]
pub struct UsageFilter {
    /// Only usage of this organisation.
    pub org: Option<OrgId>,
    /// The first UTC day.
    pub from: Date,
    /// The last UTC day, which is included.
    pub to: Date,
    /// Only usage of users who were in this team.
    pub team: Option<TeamId>,
    /// Only usage of this user.
    pub user: Option<UserId>,
    /// Only usage with this key.
    pub key: Option<KeyId>,
    /// Only usage of this task type.
    pub task_type: Option<String>,
    /// The name of the label that [`UsageBy::Label`] groups by; only with `org`.
    pub label: Option<String>,
}

/// Usage of one group. Only the fields that were grouped by are present.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq, ToSchema)]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<OrgId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// The team of the user; null: users without a team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<Option<TeamId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The key of the creates; null: creates with a token of an identity provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Option<KeyId>>,
    /// The vendor's task type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_type: Option<String>,
    /// The value of the label; null: tasks without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Option<String>>,
    /// With `top`: the name of the organisation, team, user or key, or "all others".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With `top`: true: all further groups together. Such a line is the last one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// Tasks that succeeded and were charged.
    pub tasks: i64,
    /// Credits charged for these tasks.
    pub charged: Credits,
    /// Credits charged by corrections, for tasks that were reopened after their end.
    pub corrected: Credits,
    /// `charged` plus `corrected`: what the balance counts as consumed.
    pub consumed: Credits,
}

/// The roll-up, from the entries: the columns of `usage_day`, and of each the value of the label `$9`.
const BY_LABEL: &str = "(select e.org_id, (e.created_at at time zone 'UTC')::date as day, \
     coalesce(e.team_id, '00000000-0000-0000-0000-000000000000') as team_id, \
     coalesce(e.user_id, '00000000-0000-0000-0000-000000000000') as user_id, \
     coalesce(e.key_id, '00000000-0000-0000-0000-000000000000') as key_id, e.task_type, l.value as label, \
     (e.kind = 'consume')::integer as tasks, case when e.kind = 'consume' then -e.amount else 0 end as charged, \
     case when e.kind = 'correct' then -e.amount else 0 end as corrected \
     from entry e left join label l on l.org_id = e.org_id and l.hold_id = e.hold_id and l.name = $9 \
     where e.org_id = $1 and e.kind in ('consume', 'correct') and e.created_at >= $2::date::timestamp at time zone 'UTC' \
     and e.created_at < ($3::date + 1)::timestamp at time zone 'UTC') labelled";

/// Which lines of usage are read.
#[derive(Debug, Clone, Copy)]
enum UsageLines<'a> {
    /// From this one on.
    From(u32),
    /// Those that come after the line of this group.
    After(&'a Usage),
}

pub(super) type Prepared<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;
/// The roll-up of the user `$5` alone, day by day: its rows of a day follow one another in the index, between those of all others.
const OF_USER: &str = "(select d.day::date as day, u.org_id, u.user_id, u.team_id, u.key_id, u.task_type, u.tasks, u.charged, u.corrected \
     from generate_series(greatest($2, coalesce((select min(f.day) from usage_day f where f.org_id = $1), $3 + 1))::timestamp, \
       least($3, (select max(l.day) from usage_day l where l.org_id = $1))::timestamp, interval '1 day') d(day) \
     cross join lateral (select k.org_id, k.user_id, k.team_id, k.key_id, k.task_type, k.tasks, k.charged, k.corrected from usage_day k where k.org_id = $1 and k.day = d.day::date and k.user_id = $5 offset 0) u) of_user";

/// Where usage is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The roll-up of each day, user and key.
    Days,
    /// That of one user.
    User,
    /// The sums of an organisation, which know neither users nor keys.
    Totals,
    /// The entries, and the value of a label.
    Labels,
}

impl Source {
    pub(super) fn of(filter: &UsageFilter, by: &[UsageBy]) -> Self {
        let narrow = by.iter().any(|by| matches!(by, UsageBy::User | UsageBy::Key));
        match filter.org {
            _ if by.contains(&UsageBy::Label) => Self::Labels,
            Some(_) if filter.user.is_some() => Self::User,
            Some(_) if filter.key.is_none() && !narrow => Self::Totals,
            _ => Self::Days,
        }
    }

    /// What it selects from.
    pub(super) fn table(self) -> String {
        match self {
            Self::Days => "usage_day".into(),
            Self::User => OF_USER.into(),
            Self::Totals => format!("{} of_totals", totals::USAGE),
            Self::Labels => BY_LABEL.into(),
        }
    }

    /// The condition of a filter. The one on the organisation is not optional like the others, because it leads the index.
    pub(super) fn condition(self, filter: &UsageFilter) -> String {
        let org = if filter.org.is_some() { "org_id = $1" } else { "$1::uuid is null" };
        // The sums have no columns for users and keys.
        let person = match self {
            Self::Totals => "$5::uuid is null and $6::uuid is null",
            _ => "($5::uuid is null or user_id = $5) and ($6::uuid is null or key_id = $6)",
        };
        format!(
            "{org} and day between $2 and $3 and ($4::uuid is null or team_id = $4) and {person} \
             and ($7::text is null or task_type = $7)"
        )
    }
}

impl Database {
    /// Usage grouped and ordered by `by` (empty: one sum); at most `limit` rows, from `offset` on.
    pub async fn usage(
        &self,
        filter: &UsageFilter,
        by: &[UsageBy],
        limit: u32,
        offset: u32,
    ) -> Result<Vec<Usage>, StoreError> {
        self.usage_lines(filter, by, limit, UsageLines::From(offset)).await
    }

    /// The same rows, those after `last`: no row comes twice, whatever is charged between two calls.
    pub async fn usage_after(
        &self,
        filter: &UsageFilter,
        by: &[UsageBy],
        limit: u32,
        last: Option<&Usage>,
    ) -> Result<Vec<Usage>, StoreError> {
        match last {
            // One sum has nothing after it.
            Some(_) if by.is_empty() => Ok(Vec::new()),
            Some(last) => self.usage_lines(filter, by, limit, UsageLines::After(last)).await,
            None => self.usage_lines(filter, by, limit, UsageLines::From(0)).await,
        }
    }

    /// How many rows there are, counted up to `most`.
    pub async fn usage_count(
        &self,
        filter: &UsageFilter,
        by: &[UsageBy],
        most: u32,
    ) -> Result<i64, StoreError> {
        if by.is_empty() {
            return Ok(1);
        }
        let (group, source) = (columns(by), self.usage_source(filter, by).await?);
        let statement =
            format!("select count(*) from (select {group} from {source} group by {group} limit $8) line");
        let query = filtered(sqlx::query(sqlx::AssertSqlSafe(statement)), filter, by, most);
        Ok(query.fetch_one(self.pool()).await?.try_get(0)?)
    }

    async fn usage_lines(
        &self,
        filter: &UsageFilter,
        by: &[UsageBy],
        limit: u32,
        lines: UsageLines<'_>,
    ) -> Result<Vec<Usage>, StoreError> {
        let (group, source) = (columns(by), self.usage_source(filter, by).await?);
        let (select, grouped) = if group.is_empty() {
            (String::new(), String::new())
        } else {
            (format!("{group}, "), format!("group by {group} order by {group}"))
        };
        // The label's parameter is there only with a label.
        let place = if by.contains(&UsageBy::Label) { "$10" } else { "$9" };
        let (after, offset) = match lines {
            UsageLines::From(_) => (String::new(), format!("offset {place}")),
            UsageLines::After(_) => (format!("and {}", comes_after(by, place)), String::new()),
        };
        let statement = format!(
            "select {select} coalesce(sum(tasks), 0)::bigint as tasks, saturated(sum(charged)) as charged, \
             saturated(sum(corrected)) as corrected, saturated(sum(charged + corrected)) as consumed from {source} \
             {after} {grouped} limit $8 {offset}"
        );
        let query = filtered(sqlx::query(sqlx::AssertSqlSafe(statement)), filter, by, limit);
        let query = match lines {
            UsageLines::From(offset) => query.bind(i64::from(offset)),
            UsageLines::After(last) => query.bind(group_of(last, by)),
        };
        let rows = query.fetch_all(self.pool()).await?;
        rows.iter().map(|row| usage(row, by)).collect()
    }

    /// The rows that are summed up, from a table or the entries, with their conditions. Only column names are formatted into it.
    async fn usage_source(&self, filter: &UsageFilter, by: &[UsageBy]) -> Result<String, StoreError> {
        let source = Source::of(filter, by);
        if source == Source::Labels {
            self.refuse_archived(filter).await?;
        }
        Ok(format!("{} where {}", source.table(), source.condition(filter)))
    }

    /// Labels leave with their months: sums by them would be too small without a word.
    async fn refuse_archived(&self, filter: &UsageFilter) -> Result<(), StoreError> {
        let archived: Option<String> = sqlx::query_scalar(
            "select left(max(a.month)::text, 7) from archived_charge a where a.org_id = $1 \
             and a.created_at >= $2::date::timestamp at time zone 'UTC' and a.created_at < ($3::date + 1)::timestamp at time zone 'UTC'",
        )
        .bind(filter.org.map(OrgId::as_uuid))
        .bind(filter.from)
        .bind(filter.to)
        .fetch_one(self.pool())
        .await?;
        archived.map_or(Ok(()), |month| {
            let what = "usage by a label begins later: its tasks and their labels are in an archive";
            Err(StoreError::Invalid(format!("{month} is archived, and {what}")))
        })
    }
}

fn columns(by: &[UsageBy]) -> String {
    by.iter().map(|by| by.column()).collect::<Vec<_>>().join(", ")
}

/// The statement with its parameters, up to the label's.
pub(super) fn filtered<'q>(
    query: Prepared<'q>,
    filter: &'q UsageFilter,
    by: &[UsageBy],
    limit: u32,
) -> Prepared<'q> {
    let query = query
        .bind(filter.org.map(OrgId::as_uuid))
        .bind(filter.from)
        .bind(filter.to)
        .bind(filter.team.map(TeamId::as_uuid))
        .bind(filter.user.map(UserId::as_uuid))
        .bind(filter.key.map(KeyId::as_uuid))
        .bind(&filter.task_type)
        .bind(i64::from(limit))
        // Planned anew each time: how much a range has differs widely.
        .persistent(false);
    if by.contains(&UsageBy::Label) { query.bind(&filter.label) } else { query }
}

/// The condition that a row's group comes after the one whose columns are the array `$place`: see [`group_of`].
fn comes_after(by: &[UsageBy], place: &str) -> String {
    let columns = by.iter().map(|by| match by {
        // Tasks without the label come last.
        UsageBy::Label => "label is null, coalesce(label, '')",
        other => other.column(),
    });
    let mut at = 0;
    let mut value = |of_type: &str| {
        at += 1;
        format!("({place}::text[])[{at}]::{of_type}")
    };
    let mut values = Vec::new();
    for by in by {
        match by {
            UsageBy::Day => values.push(value("date")),
            UsageBy::TaskType => values.push(value("text")),
            UsageBy::Label => values.extend([value("boolean"), value("text")]),
            UsageBy::Org | UsageBy::Team | UsageBy::User | UsageBy::Key => values.push(value("uuid")),
        }
    }
    format!("({}) > ({})", columns.collect::<Vec<_>>().join(", "), values.join(", "))
}

/// The columns of a row's group, as texts.
fn group_of(row: &Usage, by: &[UsageBy]) -> Vec<String> {
    let id = |id: Option<Uuid>| id.unwrap_or_default().to_string();
    let mut values = Vec::new();
    for by in by {
        match by {
            UsageBy::Org => values.push(id(row.org_id.map(OrgId::as_uuid))),
            UsageBy::Day => values.push(row.day.clone().unwrap_or_default()),
            UsageBy::Team => values.push(id(row.team_id.flatten().map(TeamId::as_uuid))),
            UsageBy::User => values.push(id(row.user_id.map(UserId::as_uuid))),
            UsageBy::Key => values.push(id(row.key_id.flatten().map(KeyId::as_uuid))),
            UsageBy::TaskType => values.push(row.task_type.clone().unwrap_or_default()),
            UsageBy::Label => {
                let label = row.label.clone().flatten();
                values.extend([label.is_none().to_string(), label.unwrap_or_default()]);
            }
        }
    }
    values
}

pub(super) fn usage(row: &PgRow, by: &[UsageBy]) -> Result<Usage, StoreError> {
    let id = |by_what: UsageBy| -> Result<Option<Uuid>, sqlx::Error> {
        if by.contains(&by_what) { row.try_get(by_what.column()).map(Some) } else { Ok(None) }
    };
    // The nil id stands for no team, or no key.
    let some = |id: Option<Uuid>| id.map(|id| Some(id).filter(|id| !id.is_nil()));
    let day: Option<Date> = if by.contains(&UsageBy::Day) { Some(row.try_get("day")?) } else { None };
    let task_type = if by.contains(&UsageBy::TaskType) { Some(row.try_get("task_type")?) } else { None };
    let label = if by.contains(&UsageBy::Label) { Some(row.try_get("label")?) } else { None };
    Ok(Usage {
        org_id: id(UsageBy::Org)?.map(OrgId::from_uuid),
        day: day.map(|day| day.to_string()),
        team_id: some(id(UsageBy::Team)?).map(|team| team.map(TeamId::from_uuid)),
        user_id: id(UsageBy::User)?.map(UserId::from_uuid),
        key_id: some(id(UsageBy::Key)?).map(|key| key.map(KeyId::from_uuid)),
        task_type,
        label,
        name: None,
        others: false,
        tasks: row.try_get("tasks")?,
        charged: Credits::new(row.try_get("charged")?),
        corrected: Credits::new(row.try_get("corrected")?),
        consumed: Credits::new(row.try_get("consumed")?),
    })
}
