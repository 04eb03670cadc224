//! One organisation: what it has, what it uses, what was changed last.

use http::Method;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::audit_log::Change;
use super::{Org, Tab, change, done, percent, tabs};
use crate::clock::Clock;
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::pages::usage::Chart;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Facts, Table};
use crate::console::view::{Badge, Id, Money, Name, Number, When};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

/// The answer of `GET /admin/v1/orgs/{org_id}/credits`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CreditSummary {
    pub(super) available: i64,
    pub(super) held: i64,
    pub(super) consumed: i64,
    pub(super) granted: i64,
    pub(super) overdraft: i64,
    pub(super) low: bool,
    pub(super) low_threshold: Option<i64>,
    pub(super) version: i32,
    pub(super) runway: Runway,
    pub(super) exposure: Exposure,
    pub(super) expiring: Vec<ExpiringGrant>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Runway {
    pub(super) per_day: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) until: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Exposure {
    pub(super) lost: i64,
    pub(super) in_doubt: i64,
    pub(super) overrun: i64,
    pub(super) limit: Option<i64>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) stopped_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ExpiringGrant {
    pub(super) entry_id: String,
    pub(super) left: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) expires_at: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct Day {
    day: String,
    tasks: i64,
    charged: i64,
    corrected: i64,
    consumed: i64,
}

#[derive(askama::Template)]
#[template(path = "operators/org.html")]
struct OrgPage {
    shell: Shell,
    tabs: Vec<Tab>,
    name: Name,
    badge: Badge,
    id: Id,
    org_id: String,
    version: i32,
    is_active: bool,
    is_deleted: bool,
    stopped: Option<When>,
    is_low: bool,
    available: Money,
    held: Money,
    consumed: Money,
    open: Number,
    /// Whether tasks go on.
    is_busy: bool,
    doubts: i64,
    facts: Facts,
    month: String,
    chart: Option<Chart>,
    month_total: Money,
    month_tasks: Number,
    days: Table,
    activity: Table,
}

const DAYS: &[Column] = &[
    Column::Text("Day, UTC"),
    Column::Number("Tasks"),
    Column::Number("Charged"),
    Column::Number("Corrected"),
    Column::Number("Credits"),
];

const ACTIVITY: &[Column] =
    &[Column::Text("When"), Column::Text("Who"), Column::Text("Action"), Column::Text("What")];

fn facts(org: &Org, credits: &CreditSummary, zone: &Zone) -> Facts {
    let exposure = &credits.exposure;
    let exposed = exposure.lost.saturating_add(exposure.in_doubt).saturating_add(exposure.overrun);
    let exposed = Cell::of(Money(exposed));
    let exposed = match exposure.limit {
        Some(limit) => exposed.and(&Cell::fine("of").and(&Cell::of(Money(limit)))),
        None => exposed.and(&Cell::fine("without a limit")),
    };
    let per_day = Cell::of(Money(credits.runway.per_day)).and(&Cell::fine("a day"));
    let pays = Cell::text(percent(org.price_factor_in_force_bp)).and(&Cell::fine("of the list price"));
    Facts(vec![
        ("Lasts until", Cell::when_or(zone, credits.runway.until, "longer than can be said")),
        ("Uses", per_day),
        ("Overdraft", Cell::of(Money(credits.overdraft))),
        ("Cost the platform today", exposed),
        ("Pays", pays),
        ("Time zone", Cell::text(&org.time_zone)),
        ("Since", Cell::when(zone, org.created_at)),
    ])
}

fn usage_by_day(days: &[Day]) -> Table {
    let row = |day: &Day| {
        let numbers = [day.tasks, day.charged, day.corrected, day.consumed].map(Cell::number);
        std::iter::once(Cell::text(&day.day)).chain(numbers).collect()
    };
    Table {
        caption: "Usage of this month by day",
        columns: DAYS,
        rows: days.iter().map(row).collect(),
        empty: "Nothing was charged in this month.",
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let id = visit.param("org");
    let of = |what: &str| format!("/admin/v1/orgs/{id}{what}");
    let month = Zone::named("UTC").month(Clock.wall());
    let places = [
        of(""),
        of("/credits"),
        of(&format!("/usage?group_by=day&from={month}-01&limit=50")),
        of("/audit-log?limit=8"),
    ];
    let client = &visit.client;
    let (shell, found) = tokio::join!(visit.operator("Organisation"), async {
        tokio::try_join!(
            client.look::<Org>(&places[0]),
            client.look::<CreditSummary>(&places[1]),
            client.look::<Page<Day>>(&places[2]),
            client.look::<Page<Change>>(&places[3]),
        )
    });
    let (org, credits, days, changes) = found?;
    let zone = Zone::named(&org.time_zone);
    let sum = |of: fn(&Day) -> i64| days.items.iter().map(of).fold(0, i64::saturating_add);
    let bars: Vec<(String, i64)> = days.items.iter().map(|day| (day.day.clone(), day.consumed)).collect();
    let page = OrgPage {
        tabs: tabs(&visit, &id),
        badge: org.badge(),
        id: Id(org.org_id.clone()),
        is_active: org.is_active(),
        is_deleted: org.deleted_at.is_some(),
        stopped: When::maybe(&zone, credits.exposure.stopped_at),
        is_low: credits.low,
        available: Money(credits.available),
        held: Money(credits.held),
        consumed: Money(credits.consumed),
        open: Number(org.open_tasks),
        is_busy: org.open_tasks > 0,
        doubts: org.in_doubt,
        facts: facts(&org, &credits, &zone),
        chart: (!bars.is_empty()).then_some(Chart(bars)),
        month_total: Money(sum(|day| day.consumed)),
        month_tasks: Number(sum(|day| day.tasks)),
        days: usage_by_day(&days.items),
        activity: Table {
            caption: "The newest changes",
            columns: ACTIVITY,
            rows: changes.items.iter().map(|change| change.short_row(&visit, &zone)).collect(),
            empty: "Nothing was changed yet.",
        },
        version: org.version,
        month,
        name: Name(org.name),
        org_id: org.org_id,
        shell,
    };
    Ok(html(&page))
}

/// Suspends an organisation, or lets it create again.
pub(super) async fn set_status(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let status = fields.need("status")?;
    let id = visit.param("org");
    let body = json!({"status": status}).to_string();
    change(&visit, Method::PATCH, &format!("/admin/v1/orgs/{id}"), fields.get("version"), Some(body)).await?;
    let word = if status == "active" { "unsuspended" } else { "suspended" };
    Ok(done(&visit, &format!("/orgs/{id}"), word))
}
