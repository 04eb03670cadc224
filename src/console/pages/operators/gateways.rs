//! The gateways with their leases, what waits in the one that answers, and the verdict of the newest audit.

use serde::Deserialize;
use time::OffsetDateTime;

use super::{next_page, passed_on};
use crate::console::answers::Page;
use crate::console::attention::Health;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Facts, Table};
use crate::console::view::{Badge, Id, Meter};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Gateway {
    gateway_id: String,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    alive_until: OffsetDateTime,
    live: bool,
    unanswered: i64,
}

#[derive(Debug, Deserialize)]
struct StateView {
    gateway_id: String,
    version: String,
    holds_lease: bool,
    pools: Vec<Pool>,
    queues: Vec<QueueRow>,
    calls: Vec<CallsRow>,
    polls_late_seconds: i64,
}

#[derive(Debug, Deserialize)]
struct Pool {
    pool: String,
    used: i64,
    idle: i64,
    most: i64,
}

#[derive(Debug, Deserialize)]
struct QueueRow {
    queue: String,
    waiting: i64,
}

#[derive(Debug, Deserialize)]
struct CallsRow {
    backend: String,
    call: String,
    in_flight: i64,
    breaker: String,
    organisations_refused: i64,
}

#[derive(askama::Template)]
#[template(path = "operators/gateways.html")]
struct GatewaysPage {
    shell: Shell,
    audit: Option<Audit>,
    accounts: Table,
    gateways: Table,
    next: Option<String>,
    this: Id,
    facts: Facts,
    pools: Table,
    queues: Table,
    calls: Table,
}

/// The verdict of the newest audit.
struct Audit {
    facts: Facts,
    is_well: bool,
    breaches: Table,
}

const BREACHES: &[Column] = &[Column::Text("Rule that is broken"), Column::Number("Rows")];
const ACCOUNTS: &[Column] = &[Column::Text("Account"), Column::Text("Backend"), Column::Text("New tasks")];
const GATEWAYS: &[Column] = &[
    Column::Text("Gateway"),
    Column::Text("Lease"),
    Column::Text("Lease until"),
    Column::Text("Started"),
    Column::Number("Creates without an answer"),
];
const POOLS: &[Column] = &[
    Column::Text("Pool"),
    Column::Number("In use"),
    Column::Number("Free"),
    Column::Number("Most"),
    Column::Text("Used"),
];
const QUEUES: &[Column] = &[Column::Text("Queue"), Column::Number("Waiting")];
const CALLS: &[Column] = &[
    Column::Text("Backend"),
    Column::Text("Call"),
    Column::Text("Breaker"),
    Column::Number("In flight"),
    Column::Number("Organisations refused"),
];

impl Audit {
    fn of(health: &Health, zone: &Zone) -> Option<Self> {
        let verdict = health.audit.as_ref()?;
        let is_well = verdict.breaches.is_empty();
        let badge = if is_well {
            Badge::new("good", "The books are right")
        } else {
            Badge::new("bad", "Rules are broken")
        };
        let row = |(rule, rows): (&String, &i64)| vec![Cell::text(rule), Cell::number(*rows)];
        Some(Self {
            facts: Facts(vec![
                ("Verdict", Cell::of(badge)),
                ("Ended", Cell::when(zone, verdict.ended_at)),
                ("Took", Cell::number(verdict.took_ms).and(&Cell::fine("ms"))),
            ]),
            is_well,
            breaches: Table {
                caption: "Rules that are broken",
                columns: BREACHES,
                rows: verdict.breaches.iter().map(row).collect(),
                empty: "",
            },
        })
    }
}

fn accounts(health: Option<&Health>) -> Table {
    let row = |account: &crate::console::attention::Account| {
        let badge =
            if account.usable { Badge::new("good", "Gets them") } else { Badge::new("bad", "Refused") };
        vec![Cell::text(&account.account), Cell::text(&account.backend), Cell::of(badge)]
    };
    Table {
        caption: "Accounts with the video service, as this gateway sees them",
        columns: ACCOUNTS,
        rows: health.map(|health| health.accounts.iter().map(row).collect()).unwrap_or_default(),
        empty: "Nothing is known of the accounts now.",
    }
}

/// What a queue is, in words.
fn queue_name(queue: &str) -> &str {
    match queue {
        "reserve" => "Creates that wait for their hold",
        "transition" => "Steps of tasks that are to be written",
        "set aside" => "Steps that the database refused again and again",
        "side lanes" => "Organisations whose rows are locked",
        other => other,
    }
}

fn calls_row(calls: &CallsRow) -> Vec<Cell> {
    let badge = match calls.breaker.as_str() {
        "closed" => Badge::new("good", "Closed"),
        "probing" => Badge::new("warn", "Probing"),
        _ => Badge::new("bad", "Open"),
    };
    vec![
        Cell::text(&calls.backend),
        Cell::text(&calls.call),
        Cell::of(badge),
        Cell::number(calls.in_flight),
        Cell::number(calls.organisations_refused),
    ]
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let gateways = format!("/admin/v1/gateways?limit=50{}", passed_on(visit.query(), &["cursor"]));
    let client = &visit.client;
    let ((shell, health), found) = tokio::join!(visit.operator_with("Gateways"), async {
        tokio::try_join!(
            client.look::<Page<Gateway>>(&gateways),
            client.look::<StateView>("/admin/v1/gateways/this"),
        )
    });
    let ((gateways, this), zone) = (found?, Zone::named("UTC"));
    let gateway = |one: &Gateway| {
        let badge = if one.live { Badge::new("good", "Live") } else { Badge::new("bad", "Ended") };
        let id = Cell::id(&one.gateway_id);
        vec![
            if one.gateway_id == this.gateway_id { id.and(&Cell::fine("answers")) } else { id },
            Cell::of(badge),
            Cell::when(&zone, one.alive_until),
            Cell::when(&zone, one.started_at),
            Cell::number(one.unanswered),
        ]
    };
    let pool = |pool: &Pool| {
        let meter = Cell::of(Meter { used: pool.used, limit: pool.most });
        let [used, idle, most] = [pool.used, pool.idle, pool.most].map(Cell::number);
        vec![Cell::text(&pool.pool), used, idle, most, meter]
    };
    let lease = if this.holds_lease {
        Badge::new("good", "Holds its lease")
    } else {
        Badge::new("bad", "Has no lease")
    };
    let page = GatewaysPage {
        audit: health.as_ref().and_then(|health| Audit::of(health, &zone)),
        accounts: accounts(health.as_ref()),
        gateways: Table {
            caption: "Gateways of the last day, newest first",
            columns: GATEWAYS,
            rows: gateways.items.iter().map(gateway).collect(),
            empty: "No gateway has run in the last day.",
        },
        next: next_page(&visit, "/gateways", gateways.next_cursor),
        facts: Facts(vec![
            ("Lease", Cell::of(lease)),
            ("Version", Cell::text(&this.version)),
            ("The oldest due poll is late by", Cell::number(this.polls_late_seconds).and(&Cell::fine("s"))),
        ]),
        pools: Table {
            caption: "Connections to the database",
            columns: POOLS,
            rows: this.pools.iter().map(pool).collect(),
            empty: "Nothing is known of the pools.",
        },
        queues: Table {
            caption: "What waits",
            columns: QUEUES,
            rows: this
                .queues
                .iter()
                .map(|queue| vec![Cell::text(queue_name(&queue.queue)), Cell::number(queue.waiting)])
                .collect(),
            empty: "Nothing is known of the queues.",
        },
        calls: Table {
            caption: "Calls to the video service",
            columns: CALLS,
            rows: this.calls.iter().map(calls_row).collect(),
            empty: "Nothing is known of the calls.",
        },
        this: Id(this.gateway_id),
        shell,
    };
    Ok(html(&page))
}
