//! The gateways with their leases, what waits in the one that answers, and the verdict of the newest audit.

use serde::Deserialize;
use time::OffsetDateTime;

use super::next_page;
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

impl Gateway {
    /// The line of a gateway; `answers` if it is the one that made the page.
    fn row(&self, answers: bool, zone: &Zone) -> Vec<Cell> {
        let badge = if self.live { Badge::new("good", "Live") } else { Badge::new("bad", "Ended") };
        let id = Cell::id(&self.gateway_id);
        vec![
            if answers { id.and(&Cell::fine("answers")) } else { id },
            Cell::of(badge),
            Cell::when(zone, self.alive_until),
            Cell::when(zone, self.started_at),
            Cell::number(self.unanswered),
        ]
    }
}

impl StateView {
    fn facts(&self) -> Facts {
        let lease = if self.holds_lease {
            Badge::new("good", "Holds its lease")
        } else {
            Badge::new("bad", "Has no lease")
        };
        Facts(vec![
            ("Lease", Cell::of(lease)),
            ("Version", Cell::text(&self.version)),
            ("The oldest due poll is late by", Cell::number(self.polls_late_seconds).and(&Cell::fine("s"))),
        ])
    }
}

impl Pool {
    fn row(&self) -> Vec<Cell> {
        let meter = Cell::of(Meter { used: self.used, limit: self.most });
        let [used, idle, most] = [self.used, self.idle, self.most].map(Cell::number);
        vec![Cell::text(&self.pool), used, idle, most, meter]
    }
}

impl QueueRow {
    fn row(&self) -> Vec<Cell> {
        vec![Cell::text(queue_name(&self.queue)), Cell::number(self.waiting)]
    }
}

impl CallsRow {
    fn row(&self) -> Vec<Cell> {
        let badge = match self.breaker.as_str() {
            "closed" => Badge::new("good", "Closed"),
            "probing" => Badge::new("warn", "Probing"),
            _ => Badge::new("bad", "Open"),
        };
        vec![
            Cell::text(&self.backend),
            Cell::text(&self.call),
            Cell::of(badge),
            Cell::number(self.in_flight),
            Cell::number(self.organisations_refused),
        ]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let gateways = format!("/admin/v1/gateways?limit=50{}", visit.query().passed_on(&["cursor"]));
    let client = &visit.client;
    let ((shell, health), found) = tokio::join!(visit.operator_with("Gateways"), async {
        tokio::try_join!(
            client.look::<Page<Gateway>>(&gateways),
            client.look::<StateView>("/admin/v1/gateways/this"),
        )
    });
    let ((gateways, this), zone) = (found?, Zone::named("UTC"));
    let row = |gateway: &Gateway| gateway.row(gateway.gateway_id == this.gateway_id, &zone);
    let page = GatewaysPage {
        audit: health.as_ref().and_then(|health| Audit::of(health, &zone)),
        accounts: accounts(health.as_ref()),
        gateways: Table {
            caption: "Gateways of the last day, newest first",
            columns: GATEWAYS,
            rows: gateways.items.iter().map(row).collect(),
            empty: "No gateway has run in the last day.",
        },
        next: next_page(&visit, "/gateways", gateways.next_cursor),
        facts: this.facts(),
        pools: Table {
            caption: "Connections to the database",
            columns: POOLS,
            rows: this.pools.iter().map(Pool::row).collect(),
            empty: "Nothing is known of the pools.",
        },
        queues: Table {
            caption: "What waits",
            columns: QUEUES,
            rows: this.queues.iter().map(QueueRow::row).collect(),
            empty: "Nothing is known of the queues.",
        },
        calls: Table {
            caption: "Calls to the video service",
            columns: CALLS,
            rows: this.calls.iter().map(CallsRow::row).collect(),
            empty: "Nothing is known of the calls.",
        },
        this: Id(this.gateway_id),
        shell,
    };
    Ok(html(&page))
}
