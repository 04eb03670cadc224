//! `tollgate admin key`: API keys through the management API.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::{Limit, instant, limit, text};
use crate::ids::{KeyId, OrgId, UserId};

const KEY: &[Column] = &[
    ("KEY", "key_id"),
    ("PUBLIC ID", "public_id"),
    ("NAME", "name"),
    ("USER", "user_id"),
    ("STATUS", "status"),
    ("CREATED", "created_at"),
    ("LAST USED", "last_used_at"),
    ("EXPIRES", "expires_at"),
    ("FORMER TEXT UNTIL", "previous_until"),
    ("TYPES", "allowed_types"),
    ("NETWORKS", "allowed_networks"),
];

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create an API key. Its text is shown only once.
    Create(KeyCreate),
    /// List the keys of an organisation.
    List {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// List only keys of this user.
        #[arg(long)]
        user: Option<UserId>,
        /// List only keys with this status.
        #[arg(long, value_parser = ["active", "suspended", "expired", "revoked"])]
        status: Option<String>,
    },
    /// Show a key.
    Show {
        /// Id of the key.
        key: KeyId,
    },
    /// Change a key. Settings that are not given stay.
    Update(KeyUpdate),
    /// Give a key a new text, which is shown only once. The former text works on for a while.
    Rotate {
        /// Id of the key.
        key: KeyId,
        /// Time for which the former text works on, at most 2592000 s (30 days); 0: it ends now.
        #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(0..=2_592_000), value_name = "SECONDS")]
        overlap: u32,
    },
    /// Suspend a key: its creates are refused; its unfinished tasks run on and can be read.
    Suspend {
        /// Id of the key.
        key: KeyId,
    },
    /// Resume a suspended key: it may create tasks again.
    Resume {
        /// Id of the key.
        key: KeyId,
    },
    /// Revoke a key for good, at every gateway within a second.
    Revoke {
        /// Id of the key.
        key: KeyId,
    },
}

#[derive(Debug, Args)]
pub(super) struct KeyCreate {
    /// Id of the organisation.
    #[arg(long)]
    org: OrgId,
    /// Id of the user whose key this is; omitted: you.
    #[arg(long)]
    user: Option<UserId>,
    /// Name of the key.
    #[arg(long, default_value = "default")]
    name: String,
    /// Environment label in the text of the key: 'live' makes tg_live_….
    #[arg(long, default_value = "live")]
    env: String,
    /// Instant at which the key expires, such as 2027-01-31T00:00:00Z; omitted: never.
    #[arg(long, value_parser = instant)]
    expires: Option<OffsetDateTime>,
    /// Task types that the key may create, separated by commas; omitted: all.
    #[arg(long, value_delimiter = ',')]
    types: Option<Vec<String>>,
    /// Networks that the key may be used from, such as 10.0.0.0/8, separated by commas; omitted: all.
    #[arg(long, value_delimiter = ',')]
    networks: Option<Vec<IpNet>>,
    /// Maximum number of creates per minute: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    create_per_minute: Option<Limit>,
    /// Maximum number of other calls per minute: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    status_per_minute: Option<Limit>,
}

#[derive(Debug, Args)]
pub(super) struct KeyUpdate {
    /// Id of the key.
    key: KeyId,
    /// Name of the key.
    #[arg(long)]
    name: Option<String>,
    /// Instant at which the key expires, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_parser = instant, conflicts_with = "no_expiry")]
    expires: Option<OffsetDateTime>,
    /// The key never expires.
    #[arg(long)]
    no_expiry: bool,
    /// Task types that the key may create, separated by commas.
    #[arg(long, value_delimiter = ',', conflicts_with = "all_types")]
    types: Option<Vec<String>>,
    /// The key may create all task types.
    #[arg(long)]
    all_types: bool,
    /// Networks that the key may be used from, such as 10.0.0.0/8, separated by commas.
    #[arg(long, value_delimiter = ',', conflicts_with = "all_networks")]
    networks: Option<Vec<IpNet>>,
    /// The key may be used from every network.
    #[arg(long)]
    all_networks: bool,
    /// Maximum number of creates per minute: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    create_per_minute: Option<Limit>,
    /// Maximum number of other calls per minute: a number, 'default' or 'unlimited'.
    #[arg(long, value_parser = limit, value_name = "N")]
    status_per_minute: Option<Limit>,
}

impl KeyUpdate {
    fn patch(self) -> Value {
        let mut patch = Map::new();
        let mut set = |field: &str, value: Option<Value>, none: bool| {
            if let Some(value) = value.or_else(|| none.then_some(Value::Null)) {
                patch.insert(field.into(), value);
            }
        };
        set("name", self.name.map(Value::from), false);
        set("expires_at", self.expires.map(|at| text(at).into()), self.no_expiry);
        set("allowed_types", self.types.map(Value::from), self.all_types);
        set("allowed_networks", self.networks.map(|networks| json!(networks)), self.all_networks);
        set("create_per_minute", self.create_per_minute.map(|limit| limit.0.into()), false);
        set("status_per_minute", self.status_per_minute.map(|limit| limit.0.into()), false);
        patch.into()
    }
}

pub(super) async fn key(session: &Session, command: KeyCommand) -> Result<(), CliError> {
    let path = |key: KeyId| format!("/admin/v1/keys/{key}");
    match command {
        KeyCommand::Create(new) => {
            let body = json!({
                "user_id": new.user,
                "name": new.name,
                "env": new.env,
                "expires_at": new.expires.map(text),
                "allowed_types": new.types,
                "allowed_networks": new.networks,
                "create_per_minute": new.create_per_minute.and_then(|limit| limit.0),
                "status_per_minute": new.status_per_minute.and_then(|limit| limit.0),
            });
            let made = session.post(&format!("/admin/v1/orgs/{}/keys", new.org), body).await?;
            session.say_once(&made, "key_id", "api_key")?;
        }
        KeyCommand::List { org, user, status } => {
            let query = QueryString::default().add("user_id", user).add("status", status);
            session.list(&query.of(&format!("/admin/v1/orgs/{org}/keys")), KEY).await?;
        }
        KeyCommand::Show { key } => session.show(&session.get(&path(key)).await?, KEY),
        KeyCommand::Update(update) => {
            let path = path(update.key);
            session.show(&session.patch(&path, update.patch()).await?, KEY);
        }
        KeyCommand::Rotate { key, overlap } => {
            let body = json!({"overlap_seconds": overlap});
            let rotated = session.post(&format!("{}/rotate", path(key)), body).await?;
            session.say_once(&rotated, "key_id", "api_key")?;
        }
        KeyCommand::Suspend { key } => {
            session.show(&session.patch(&path(key), json!({"status": "suspended"})).await?, KEY);
        }
        KeyCommand::Resume { key } => {
            session.show(&session.patch(&path(key), json!({"status": "active"})).await?, KEY);
        }
        KeyCommand::Revoke { key } => {
            session.post(&format!("{}/revoke", path(key)), json!({})).await?;
            session.say(&json!({"key_id": key, "revoked": true}), format_args!("{key} is revoked"));
        }
    }
    Ok(())
}
