//! `tollgate admin team`, `user`.

use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::named;
use crate::ids::{OrgId, TeamId, UserId};

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
        /// List only users whose name contains this text; capital letters do not matter.
        #[arg(long)]
        search: Option<String>,
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
        UserCommand::List { org, search, team } => {
            let query = QueryString::default().add("search", search).add("team_id", team);
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
        UserCommand::Forget { user, erase_content } => forget(session, user, erase_content).await?,
        UserCommand::Delete { user } => {
            session.call(Method::DELETE, &path(user), None).await?;
            session.say(&json!({"user_id": user, "deleted": true}), format_args!("{user} is deleted"));
        }
    }
    Ok(())
}

/// Forgets a user. The content of its tasks is erased by several calls, each of which says where the next one goes on.
async fn forget(session: &Session, user: UserId, erase_content: bool) -> Result<(), CliError> {
    let path = format!("/admin/v1/users/{user}/forget");
    let (mut erased, mut after) = (0, Value::Null);
    let mut done = loop {
        let some = session.post(&path, json!({"erase_content": erase_content, "after": after})).await?;
        erased += some["erased_tasks"].as_u64().unwrap_or_default();
        after = some["next"].clone();
        if after.is_null() {
            break some;
        }
    };
    done["erased_tasks"] = erased.into();
    let pseudonym = named(&done, "pseudonym");
    session
        .say(&done, format_args!("{user} is called {pseudonym}; the content of {erased} task(s) was erased"));
    Ok(())
}
