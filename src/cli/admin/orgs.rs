//! `tollgate admin org`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::{Limit, limit, named, quota};
use crate::ids::OrgId;

const ORG: &[Column] = &[
    ("ORG", "org_id"),
    ("NAME", "name"),
    ("STATUS", "status"),
    ("AVAILABLE", "available"),
    ("HELD", "held"),
    ("CONSUMED", "consumed"),
    ("GRANTED", "granted"),
    ("OVERDRAFT", "overdraft"),
    ("FACTOR", "price_factor_in_force_bp"),
    ("OPEN", "open_tasks"),
    ("IN DOUBT", "in_doubt"),
    ("STOPPED AT", "stopped_at"),
    ("TIME ZONE", "time_zone"),
];
const QUOTA: &[Column] = &[("QUOTA", "kind"), ("USED", "used"), ("MOST", "most"), ("OWN", "own")];
const RETENTION: &[Column] = &[("CONTENT DAYS", "content_days")];

#[derive(Debug, Subcommand)]
pub(super) enum OrgCommand {
    /// Create an organisation.
    Create {
        /// Name of the organisation; unique.
        name: String,
        /// Time zone of the organisation's days, weeks and months, such as Europe/Berlin.
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
    },
    /// List all organisations.
    List {
        /// List only organisations with this status.
        #[arg(long, value_parser = ["active", "suspended"])]
        status: Option<String>,
        /// List only organisations whose creates are stopped because of what their tasks cost the platform.
        #[arg(long)]
        stopped: bool,
        /// List deleted organisations instead.
        #[arg(long)]
        deleted: bool,
    },
    /// Show an organisation.
    Show {
        /// Id of the organisation.
        org: OrgId,
    },
    /// Change an organisation. Settings that are not given stay.
    #[command(visible_alias = "limits")]
    Update(OrgUpdate),
    /// Show how many users, teams, keys and budgets an organisation may have, or change it.
    Quotas(OrgQuotas),
    /// Show how long an organisation keeps content (what the video service said about its tasks), or change it.
    Retention {
        /// Id of the organisation.
        org: OrgId,
        /// Days for which content is kept: a number, or 'default' for the platform's.
        #[arg(long, value_parser = quota, value_name = "DAYS")]
        content_days: Option<Limit>,
    },
    /// Suspend an organisation: its creates are refused; its unfinished tasks run on and can be read.
    Suspend {
        /// Id of the organisation.
        org: OrgId,
    },
    /// Resume a suspended organisation: it may create tasks again.
    Resume {
        /// Id of the organisation.
        org: OrgId,
    },
    /// Delete an organisation: its keys are refused, its history stays. Refused while it has unfinished tasks, or credits
    /// unless they are moved or forfeited.
    Delete {
        /// Id of the organisation.
        org: OrgId,
        /// Move the remaining credits to this organisation.
        #[arg(long, value_name = "ORG", conflicts_with = "forfeit_credits")]
        move_credits_to: Option<OrgId>,
        /// Take the remaining credits away.
        #[arg(long)]
        forfeit_credits: bool,
        /// Repeating the command with the same key deletes and moves nothing again; without it, each command has a key of
        /// its own.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Take the deletion of an organisation back: its users and keys are accepted again. Credits that were moved or forfeited
    /// do not come back.
    Restore {
        /// Id of the organisation.
        org: OrgId,
        /// New name, if another organisation has taken the name by now.
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct OrgQuotas {
    /// Id of the organisation.
    org: OrgId,
    /// Maximum number of users: a number, or 'default' for the platform's.
    #[arg(long, value_parser = quota, value_name = "N")]
    users: Option<Limit>,
    /// Maximum number of teams: a number, or 'default' for the platform's.
    #[arg(long, value_parser = quota, value_name = "N")]
    teams: Option<Limit>,
    /// Maximum number of keys that are not revoked: a number, or 'default' for the platform's.
    #[arg(long, value_parser = quota, value_name = "N")]
    keys: Option<Limit>,
    /// Maximum number of budgets: a number, or 'default' for the platform's.
    #[arg(long, value_parser = quota, value_name = "N")]
    budgets: Option<Limit>,
    /// Maximum number of changes that its own people may ask for on one UTC day: a number, or 'default' for the platform's.
    #[arg(long, value_parser = quota, value_name = "N")]
    changes: Option<Limit>,
}

#[derive(Debug, Args)]
pub(super) struct OrgUpdate {
    /// Id of the organisation.
    org: OrgId,
    /// Name of the organisation.
    #[arg(long)]
    name: Option<String>,
    /// Time zone of the organisation's days, weeks and months, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Maximum number of creates per minute: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    create_per_minute: Option<Limit>,
    /// Maximum number of other calls per minute: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    status_per_minute: Option<Limit>,
    /// Maximum number of unfinished tasks: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    max_open_tasks: Option<Limit>,
    /// How far below zero new tasks may take the balance, in credits.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..), value_name = "CREDITS")]
    overdraft: Option<i64>,
    /// What the organisation pays of the list price by default, in basis points: 10000 is the list price. A 'price-factor'
    /// in force counts instead.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=1_000_000), value_name = "BP")]
    price_factor: Option<i32>,
}

impl OrgUpdate {
    /// The fields that were given.
    fn patch(self) -> Map<String, Value> {
        let mut patch = Map::new();
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                patch.insert(field.into(), value);
            }
        };
        set("name", self.name.map(Value::from));
        set("time_zone", self.time_zone.map(Value::from));
        set("create_per_minute", self.create_per_minute.map(|limit| limit.0.into()));
        set("status_per_minute", self.status_per_minute.map(|limit| limit.0.into()));
        set("max_open_tasks", self.max_open_tasks.map(|limit| limit.0.into()));
        set("overdraft", self.overdraft.map(Value::from));
        set("price_factor_bp", self.price_factor.map(Value::from));
        patch
    }
}

impl OrgQuotas {
    /// The quotas that were given.
    fn patch(self) -> Map<String, Value> {
        let given = [
            ("users", self.users),
            ("teams", self.teams),
            ("keys", self.keys),
            ("budgets", self.budgets),
            ("changes", self.changes),
        ];
        given.into_iter().filter_map(|(kind, most)| Some((kind.into(), most?.0.into()))).collect()
    }
}

pub(super) async fn org(session: &Session, command: OrgCommand) -> Result<(), CliError> {
    let path = |org: OrgId| format!("/admin/v1/orgs/{org}");
    match command {
        OrgCommand::Create { name, time_zone } => {
            let made = session.post("/admin/v1/orgs", json!({"name": name, "time_zone": time_zone})).await?;
            session.say(&made, named(&made, "org_id"));
        }
        OrgCommand::List { status, stopped, deleted } => {
            let query = QueryString::default().add("status", status);
            let query = query.add("stopped", stopped.then_some(true)).add("deleted", deleted.then_some(true));
            session.list(&query.of("/admin/v1/orgs"), ORG).await?;
        }
        OrgCommand::Show { org } => session.show(&session.get(&path(org)).await?, ORG),
        OrgCommand::Update(update) => {
            let path = path(update.org);
            session.show(&session.patch(&path, update.patch().into()).await?, ORG);
        }
        OrgCommand::Quotas(quotas) => show_quotas(session, &path(quotas.org), quotas).await?,
        OrgCommand::Retention { org, content_days } => {
            let path = format!("{}/retention", path(org));
            let shown = match content_days {
                Some(days) => session.patch(&path, json!({"content_days": days.0})).await?,
                None => session.get(&path).await?,
            };
            session.show(&shown, RETENTION);
        }
        OrgCommand::Suspend { org } => {
            session.show(&session.patch(&path(org), json!({"status": "suspended"})).await?, ORG);
        }
        OrgCommand::Resume { org } => {
            session.show(&session.patch(&path(org), json!({"status": "active"})).await?, ORG);
        }
        OrgCommand::Delete { org, move_credits_to, forfeit_credits, idempotency_key } => {
            let query = QueryString::default()
                .add("move_credits_to", move_credits_to)
                .add("forfeit_credits", forfeit_credits.then_some(true));
            let path = query.of(&path(org));
            session.move_money(Method::DELETE, &path, idempotency_key, None).await?;
            session.say(&json!({"org_id": org, "deleted": true}), format_args!("{org} is deleted"));
        }
        OrgCommand::Restore { org, name } => {
            let path = format!("{}/restore", path(org));
            session.show(&session.post(&path, json!({"name": name})).await?, ORG);
        }
    }
    Ok(())
}

/// Changes the quotas that were given, and shows all of them.
async fn show_quotas(session: &Session, org: &str, quotas: OrgQuotas) -> Result<(), CliError> {
    let path = format!("{org}/quotas");
    let patch = quotas.patch();
    if !patch.is_empty() {
        session.patch(&path, patch.into()).await?;
    }
    let quotas = session.get(&path).await?;
    session.show_all(quotas["items"].as_array().map_or(&[][..], Vec::as_slice), QUOTA);
    Ok(())
}
