//! The limits of an organisation: rates, open tasks, quotas, how long content is kept, and what it pays of the list price.

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{Org, Tab, body, done, instant, limit, percent, tabs, whole};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::trouble::Trouble;
use crate::console::view::{Badge, Id, Name};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Quotas {
    items: Vec<Quota>,
}

#[derive(Debug, Deserialize)]
struct Quota {
    kind: String,
    used: i64,
    most: i64,
    own: bool,
}

#[derive(Debug, Deserialize)]
struct Retention {
    content_days: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Factor {
    factor_id: String,
    factor_bp: i64,
    #[serde(with = "time::serde::rfc3339")]
    valid_from: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    valid_until: Option<OffsetDateTime>,
    reason: String,
    active: bool,
    version: i32,
}

/// A price factor that can be ended.
struct Endable {
    factor_id: String,
    version: i32,
    text: String,
}

/// A limit in a form: its name in the API, its label, and its value; empty: the gateway's default.
struct LimitField {
    name: &'static str,
    label: &'static str,
    value: String,
}

/// A quota in a form.
struct QuotaField {
    name: String,
    value: String,
}

#[derive(askama::Template)]
#[template(path = "operators/limits.html")]
struct LimitsPage {
    shell: Shell,
    tabs: Vec<Tab>,
    org_id: String,
    name: Name,
    badge: Badge,
    id: Id,
    version: i32,
    is_deleted: bool,
    limits: Vec<LimitField>,
    time_zone: String,
    org_name: String,
    quota_fields: Vec<QuotaField>,
    quotas: Table,
    content_days: String,
    default_factor: String,
    default_factor_percent: String,
    factors: Table,
    endable: Vec<Endable>,
}

const QUOTAS: &[Column] =
    &[Column::Text("What"), Column::Number("Has"), Column::Number("May have"), Column::Text("Whose rule")];

const FACTORS: &[Column] = &[
    Column::Text("Pays"),
    Column::Text("From"),
    Column::Text("Until"),
    Column::Text("State"),
    Column::Text("Reason"),
];

impl Quota {
    fn row(&self) -> Vec<Cell> {
        let whose = if self.own { "its own" } else { "the platform's" };
        vec![Cell::text(&self.kind), Cell::number(self.used), Cell::number(self.most), Cell::fine(whose)]
    }

    fn field(&self) -> QuotaField {
        let value = if self.own { self.most.to_string() } else { "default".into() };
        QuotaField { name: self.kind.clone(), value }
    }
}

impl Factor {
    fn row(&self, zone: &Zone, now: OffsetDateTime) -> Vec<Cell> {
        let badge = if self.active {
            Badge::new("good", "In force")
        } else if self.valid_from > now {
            Badge::new("busy", "To come")
        } else {
            Badge::new("", "Over")
        };
        vec![
            Cell::text(percent(self.factor_bp)),
            Cell::when(zone, self.valid_from),
            Cell::when_or(zone, self.valid_until, "until it is ended"),
            Cell::of(badge),
            Cell::text(&self.reason),
        ]
    }

    /// The choice by which this factor is ended; none if it has ended.
    fn endable(&self, now: OffsetDateTime) -> Option<Endable> {
        let goes_on = self.valid_until.is_none_or(|until| until > now);
        goes_on.then(|| Endable {
            factor_id: self.factor_id.clone(),
            version: self.version,
            text: percent(self.factor_bp),
        })
    }
}

fn limit_fields(org: &Org) -> Vec<LimitField> {
    let value = |limit: Option<i64>| limit.map_or_else(|| "default".to_owned(), |limit| limit.to_string());
    vec![
        LimitField {
            name: "create_per_minute",
            label: "Creates a minute",
            value: value(org.create_per_minute),
        },
        LimitField {
            name: "status_per_minute",
            label: "Other calls a minute",
            value: value(org.status_per_minute),
        },
        LimitField { name: "max_open_tasks", label: "Unfinished tasks", value: value(org.max_open_tasks) },
    ]
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let id = visit.param("org");
    let of = |what: &str| format!("/admin/v1/orgs/{id}{what}");
    let places = [of(""), of("/quotas"), of("/retention"), of("/price-factors?limit=20")];
    let client = &visit.client;
    let (shell, found) = tokio::join!(visit.operator("Limits and prices"), async {
        tokio::try_join!(
            client.look::<Org>(&places[0]),
            client.look::<Quotas>(&places[1]),
            client.look::<Retention>(&places[2]),
            client.look::<Page<Factor>>(&places[3]),
        )
    });
    let (org, quotas, retention, factors) = found?;
    let (zone, now) = (Zone::named(&org.time_zone), crate::clock::Clock.wall());
    let page = LimitsPage {
        tabs: tabs(&visit, &id),
        badge: org.badge(),
        id: Id(org.org_id.clone()),
        version: org.version,
        is_deleted: org.deleted_at.is_some(),
        limits: limit_fields(&org),
        quota_fields: quotas.items.iter().map(Quota::field).collect(),
        quotas: Table {
            caption: "Quotas",
            columns: QUOTAS,
            rows: quotas.items.iter().map(Quota::row).collect(),
            empty: "There is no quota.",
        },
        content_days: retention.content_days.map_or_else(|| "default".into(), |days| days.to_string()),
        default_factor: org.price_factor_bp.to_string(),
        default_factor_percent: percent(org.price_factor_bp),
        factors: Table {
            caption: "Price factors",
            columns: FACTORS,
            rows: factors.items.iter().map(|factor| factor.row(&zone, now)).collect(),
            empty: "It never had a price factor for a time: its default applies.",
        },
        endable: factors.items.iter().filter_map(|factor| factor.endable(now)).collect(),
        time_zone: org.time_zone.clone(),
        org_name: org.name.clone(),
        name: Name(org.name),
        org_id: org.org_id,
        shell,
    };
    Ok(html(&page))
}

/// Where the forms of this page lead back to.
fn back(visit: &Visit) -> String {
    format!("/orgs/{}/limits", visit.param("org"))
}

/// Changes names, limits and the default price factor: what was filled in.
fn change_of_org(fields: &Fields) -> Result<String, Trouble> {
    let mut body = Map::new();
    for name in ["create_per_minute", "status_per_minute", "max_open_tasks"] {
        if let Some(value) = limit(fields, name)? {
            body.insert(name.into(), value);
        }
    }
    if let Some(factor) = whole(fields, "price_factor_bp")? {
        body.insert("price_factor_bp".into(), json!(factor));
    }
    for name in ["name", "time_zone"] {
        if let Some(text) = fields.get(name) {
            body.insert(name.into(), json!(text));
        }
    }
    Ok(Value::Object(body).to_string())
}

pub(super) async fn change(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = change_of_org(&fields)?;
    let place = format!("/admin/v1/orgs/{}", visit.param("org"));
    super::change(&visit, Method::PATCH, &place, fields.get("version"), Some(body)).await?;
    Ok(done(&visit, &back(&visit), "saved"))
}

pub(super) async fn change_quotas(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let mut body = Map::new();
    for name in ["users", "teams", "keys", "budgets", "changes"] {
        if let Some(value) = limit(&fields, name)? {
            body.insert(name.into(), value);
        }
    }
    let place = format!("/admin/v1/orgs/{}/quotas", visit.param("org"));
    super::change(&visit, Method::PATCH, &place, None, Some(Value::Object(body).to_string())).await?;
    Ok(done(&visit, &back(&visit), "saved"))
}

pub(super) async fn change_retention(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let days = limit(&fields, "content_days")?.unwrap_or(Value::Null);
    let place = format!("/admin/v1/orgs/{}/retention", visit.param("org"));
    let body = json!({"content_days": days}).to_string();
    super::change(&visit, Method::PATCH, &place, None, Some(body)).await?;
    Ok(done(&visit, &back(&visit), "saved"))
}

pub(super) async fn create_factor(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = body(&[
        ("factor_bp", json!(super::needed(&fields, "factor_bp")?)),
        ("valid_from", json!(instant(&fields, "valid_from")?)),
        ("valid_until", json!(instant(&fields, "valid_until")?)),
        ("reason", json!(fields.need("reason")?)),
    ]);
    let place = format!("/admin/v1/orgs/{}/price-factors", visit.param("org"));
    super::change(&visit, Method::POST, &place, None, Some(body)).await?;
    Ok(done(&visit, &back(&visit), "created"))
}

pub(super) async fn end_factor(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let place = format!("/admin/v1/orgs/{}/price-factors/{}/end", visit.param("org"), visit.param("factor"));
    super::change(&visit, Method::POST, &place, fields.get("version"), Some("{}".into())).await?;
    Ok(done(&visit, &back(&visit), "saved"))
}
