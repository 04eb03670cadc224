//! `tollgate admin org`, `team`, `user`.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::{Limit, limit, named, quota};
use crate::ids::{OrgId, TeamId, UserId};

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
const TEAM: &[Column] =
    &[("TEAM", "team_id"), ("NAME", "name"), ("STATUS", "status"), ("CREATED", "created_at")];
const USER: &[Column] = &[
    ("USER", "user_id"),
    ("NAME", "name"),
    ("ROLE", "role"),
    ("STATUS", "status"),
    ("TEAM", "team_id"),
    ("CREATED", "created_at"),
];

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
            let mut patch = Map::new();
            let mut set = |field: &str, value: Option<Value>| {
                if let Some(value) = value {
                    patch.insert(field.into(), value);
                }
            };
            set("name", update.name.map(Value::from));
            set("time_zone", update.time_zone.map(Value::from));
            set("create_per_minute", update.create_per_minute.map(|limit| limit.0.into()));
            set("status_per_minute", update.status_per_minute.map(|limit| limit.0.into()));
            set("max_open_tasks", update.max_open_tasks.map(|limit| limit.0.into()));
            set("overdraft", update.overdraft.map(Value::from));
            set("price_factor_bp", update.price_factor.map(Value::from));
            session.show(&session.patch(&path(update.org), patch.into()).await?, ORG);
        }
        OrgCommand::Quotas(OrgQuotas { org, users, teams, keys, budgets, changes }) => {
            let path = format!("{}/quotas", path(org));
            let given = [
                ("users", users),
                ("teams", teams),
                ("keys", keys),
                ("budgets", budgets),
                ("changes", changes),
            ];
            let patch: Map<String, Value> =
                given.into_iter().filter_map(|(kind, most)| Some((kind.into(), most?.0.into()))).collect();
            if !patch.is_empty() {
                session.patch(&path, patch.into()).await?;
            }
            let quotas = session.get(&path).await?;
            session.show_all(quotas["items"].as_array().map_or(&[][..], Vec::as_slice), QUOTA);
        }
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

#[derive(Debug, Subcommand)]
pub(super) enum TeamCommand {
    /// Create a team.
    Create {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Name of the team; unique within the organisation.
        #[arg(long)]
        name: String,
    },
    /// List the teams of an organisation.
    List {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
    },
    /// Show a team.
    Show {
        /// Id of the team.
        team: TeamId,
    },
    /// Change the name of a team.
    Update {
        /// Id of the team.
        team: TeamId,
        /// Name of the team.
        #[arg(long)]
        name: String,
    },
    /// Suspend a team: creates of its members are refused.
    Suspend {
        /// Id of the team.
        team: TeamId,
    },
    /// Resume a suspended team: its members may create tasks again.
    Resume {
        /// Id of the team.
        team: TeamId,
    },
    /// Delete a team: its members stay, without a team.
    Delete {
        /// Id of the team.
        team: TeamId,
    },
}

pub(super) async fn team(session: &Session, command: TeamCommand) -> Result<(), CliError> {
    let path = |team: TeamId| format!("/admin/v1/teams/{team}");
    match command {
        TeamCommand::Create { org, name } => {
            let made = session.post(&format!("/admin/v1/orgs/{org}/teams"), json!({"name": name})).await?;
            session.say(&made, named(&made, "team_id"));
        }
        TeamCommand::List { org } => session.list(&format!("/admin/v1/orgs/{org}/teams"), TEAM).await?,
        TeamCommand::Show { team } => session.show(&session.get(&path(team)).await?, TEAM),
        TeamCommand::Update { team, name } => {
            session.show(&session.patch(&path(team), json!({"name": name})).await?, TEAM);
        }
        TeamCommand::Suspend { team } => {
            session.show(&session.patch(&path(team), json!({"status": "suspended"})).await?, TEAM);
        }
        TeamCommand::Resume { team } => {
            session.show(&session.patch(&path(team), json!({"status": "active"})).await?, TEAM);
        }
        TeamCommand::Delete { team } => {
            session.call(Method::DELETE, &path(team), None).await?;
            session.say(&json!({"team_id": team, "deleted": true}), format_args!("{team} is deleted"));
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Create a user.
    Create {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Name of the user; unique within the organisation.
        #[arg(long)]
        name: String,
        /// Role: a member creates tasks and sees its own; an admin sees and manages all of the organisation.
        #[arg(long, default_value = "member", value_parser = ["member", "admin"])]
        role: String,
        /// Id of the user's team.
        #[arg(long)]
        team: Option<TeamId>,
    },
    /// List the users of an organisation.
    List {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// List only users of this team.
        #[arg(long)]
        team: Option<TeamId>,
    },
    /// Show a user.
    Show {
        /// Id of the user.
        user: UserId,
    },
    /// Change a user. Settings that are not given stay.
    Update {
        /// Id of the user.
        user: UserId,
        /// Name of the user.
        #[arg(long)]
        name: Option<String>,
        /// Role of the user.
        #[arg(long, value_parser = ["member", "admin"])]
        role: Option<String>,
        /// Id of the user's team.
        #[arg(long, conflicts_with = "no_team")]
        team: Option<TeamId>,
        /// Remove the user from its team.
        #[arg(long)]
        no_team: bool,
    },
    /// Suspend a user: creates of the user are refused.
    Suspend {
        /// Id of the user.
        user: UserId,
    },
    /// Resume a suspended user: it may create tasks again.
    Resume {
        /// Id of the user.
        user: UserId,
    },
    /// Delete a user: its keys are refused, its history stays.
    Delete {
        /// Id of the user.
        user: UserId,
    },
    /// Make a link that opens one session of a user at the console, once, within 15 minutes. Whoever has the link is the user.
    Invite {
        /// Id of the user.
        user: UserId,
    },
    /// End the sessions of a user at the console, and its invitations that were not used.
    EndSessions {
        /// Id of the user.
        user: UserId,
    },
    /// Forget who a user is: delete it, and replace its name everywhere, also in the audit log, by a pseudonym. This cannot be
    /// taken back. Balances, entries and tasks stay.
    Forget {
        /// Id of the user, which may be deleted already.
        user: UserId,
        /// Also erase what the video service said about the user's tasks.
        #[arg(long)]
        erase_content: bool,
    },
}

pub(super) async fn user(session: &Session, command: UserCommand) -> Result<(), CliError> {
    let path = |user: UserId| format!("/admin/v1/users/{user}");
    match command {
        UserCommand::Create { org, name, role, team } => {
            let body = json!({"name": name, "role": role, "team_id": team});
            let made = session.post(&format!("/admin/v1/orgs/{org}/users"), body).await?;
            session.say(&made, named(&made, "user_id"));
        }
        UserCommand::List { org, team } => {
            let query = QueryString::default().add("team_id", team);
            session.list(&query.of(&format!("/admin/v1/orgs/{org}/users")), USER).await?;
        }
        UserCommand::Show { user } => session.show(&session.get(&path(user)).await?, USER),
        UserCommand::Update { user, name, role, team, no_team } => {
            let mut patch = Map::new();
            for (field, value) in
                [("name", name), ("role", role), ("team_id", team.map(|team| team.to_string()))]
            {
                if let Some(value) = value {
                    patch.insert(field.into(), value.into());
                }
            }
            if no_team {
                patch.insert("team_id".into(), Value::Null);
            }
            session.show(&session.patch(&path(user), patch.into()).await?, USER);
        }
        UserCommand::Suspend { user } => {
            session.show(&session.patch(&path(user), json!({"status": "suspended"})).await?, USER);
        }
        UserCommand::Resume { user } => {
            session.show(&session.patch(&path(user), json!({"status": "active"})).await?, USER);
        }
        UserCommand::Invite { user } => {
            let made = session.call(Method::POST, &format!("{}/invitations", path(user)), None).await?;
            // The address by which people reach the gateway is known where it is configured.
            let link = if made["url"].is_string() { "url" } else { "path" };
            session.say_once(&made, "user_id", link)?;
        }
        UserCommand::EndSessions { user } => {
            let ended = session.call(Method::POST, &format!("{}/end-sessions", path(user)), None).await?;
            session.say(&ended, format_args!("{} session(s) ended", ended["ended_sessions"]));
        }
        UserCommand::Forget { user, erase_content } => {
            let path = format!("{}/forget", path(user));
            let (mut erased, mut after) = (0, Value::Null);
            let mut done = loop {
                let some =
                    session.post(&path, json!({"erase_content": erase_content, "after": after})).await?;
                erased += some["erased_tasks"].as_u64().unwrap_or_default();
                after = some["next"].clone();
                if after.is_null() {
                    break some;
                }
            };
            done["erased_tasks"] = erased.into();
            let pseudonym = named(&done, "pseudonym");
            session.say(
                &done,
                format_args!("{user} is called {pseudonym}; the content of {erased} task(s) was erased"),
            );
        }
        UserCommand::Delete { user } => {
            session.call(Method::DELETE, &path(user), None).await?;
            session.say(&json!({"user_id": user, "deleted": true}), format_args!("{user} is deleted"));
        }
    }
    Ok(())
}
