//! The users and teams of an organisation, for its admins.

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::console::answers::{Page, Person, Team};
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Badge, Id, Name, When};
use crate::console::visit::{Fields, Outcome, Visit};

#[derive(askama::Template)]
#[template(path = "people.html")]
struct PeoplePage {
    shell: Shell,
    people: Vec<PersonLine>,
    teams: Vec<TeamLine>,
    next: Option<String>,
}

struct PersonLine {
    user_id: String,
    id: Id,
    name: Name,
    is_admin: bool,
    is_active: bool,
    badge: Badge,
    team_id: String,
    team: Option<Name>,
    version: i32,
}

struct TeamLine {
    team_id: String,
    id: Id,
    name: String,
    is_active: bool,
    badge: Badge,
    version: i32,
}

fn badge(status: &str) -> Badge {
    if status == "active" { Badge::new("good", "Active") } else { Badge::new("warn", "Suspended") }
}

pub(in crate::console) async fn people(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("People and teams").await?;
    let org = &member.me.organisation.org_id;
    let cursor = visit.query().get("cursor").map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let (people, teams) = (
        format!("/admin/v1/orgs/{org}/users?limit=50{cursor}"),
        format!("/admin/v1/orgs/{org}/teams?limit=200"),
    );
    let (found, teams) = tokio::try_join!(
        visit.client.look::<Page<Person>>(&people),
        visit.client.look::<Page<Team>>(&teams)
    )?;
    let line = |one: Person| {
        let team = one.team_id.as_ref().and_then(|id| teams.items.iter().find(|team| team.team_id == *id));
        PersonLine {
            team: team.map(|team| Name(team.name.clone())),
            team_id: one.team_id.unwrap_or_default(),
            id: Id(one.user_id.clone()),
            user_id: one.user_id,
            name: Name(one.name),
            is_admin: one.role == "admin",
            is_active: one.status == "active",
            badge: badge(&one.status),
            version: one.version,
        }
    };
    let page = PeoplePage {
        people: found.items.into_iter().map(line).collect(),
        next: found.next_cursor.map(|cursor| format!("{}?cursor={cursor}", visit.link("/people"))),
        teams: teams
            .items
            .iter()
            .map(|one| TeamLine {
                team_id: one.team_id.clone(),
                id: Id(one.team_id.clone()),
                name: one.name.clone(),
                is_active: one.status == "active",
                badge: badge(&one.status),
                version: one.version,
            })
            .collect(),
        shell,
    };
    Ok(html(&page))
}

/// A link that lets somebody in; shown once.
#[derive(askama::Template)]
#[template(path = "invitation.html")]
struct InvitationPage {
    shell: Shell,
    name: Name,
    url: String,
    expires: When,
}

/// What the API answers to an invitation.
#[derive(Deserialize)]
struct Invitation {
    path: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

pub(in crate::console) async fn create_user(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    create(&visit, &fields).await?;
    Ok(redirect(&visit.link("/people?done=created")))
}

/// Creates a user and makes a link that lets it in.
pub(in crate::console) async fn invite(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let made = create(&visit, &fields).await?;
    link_for(&visit, &made.user_id).await
}

/// Makes a link that lets a user in who is there already.
pub(in crate::console) async fn invite_user(visit: Visit) -> Outcome {
    link_for(&visit, &visit.param("user")).await
}

async fn link_for(visit: &Visit, user: &str) -> Outcome {
    let place = format!("/admin/v1/users/{user}");
    let (person, (member, shell)) =
        tokio::try_join!(visit.client.look::<Person>(&place), visit.member("Invitation"))?;
    let made: Invitation = visit.client.manage(Method::POST, &format!("{place}/invitations")).whole().await?;
    Ok(html(&InvitationPage {
        shell,
        name: Name(person.name),
        url: format!("{}{}", visit.public_url(), made.path),
        expires: When::new(&member.zone, made.expires_at),
    }))
}

/// Signs a user out in every browser.
pub(in crate::console) async fn end_sessions(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/users/{}/end-sessions", visit.param("user"));
    visit.client.manage(Method::POST, &place).send().await?;
    Ok(redirect(&visit.link("/people?done=signed_out")))
}

async fn create(visit: &Visit, fields: &Fields) -> Result<Person, Trouble> {
    let (member, _) = visit.member("People and teams").await?;
    let mut body = Map::new();
    body.insert("name".into(), json!(fields.need("name")?));
    body.insert("role".into(), json!(fields.get("role").unwrap_or("member")));
    if let Some(team) = fields.get("team") {
        body.insert("team_id".into(), json!(team));
    }
    let place = format!("/admin/v1/orgs/{}/users", member.me.organisation.org_id);
    Ok(visit.client.manage(Method::POST, &place).body(Value::Object(body).to_string()).whole().await?)
}

/// Changes what was filled in of a user: its role, its team, whether it is suspended.
pub(in crate::console) async fn change_user(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let mut body = Map::new();
    for name in ["role", "status"] {
        if let Some(word) = fields.get(name) {
            body.insert(name.into(), json!(word));
        }
    }
    if let Some(team) = fields.sent("team") {
        body.insert("team_id".into(), if team.is_empty() { Value::Null } else { json!(team) });
    }
    let place = format!("/admin/v1/users/{}", visit.param("user"));
    let version = format!("\"{}\"", fields.text("version"));
    let call = visit.client.manage(Method::PATCH, &place).header("if-match", &version);
    call.body(Value::Object(body).to_string()).send().await?;
    Ok(redirect(&visit.link("/people?done=saved")))
}

pub(in crate::console) async fn create_team(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("People and teams").await?;
    let body = json!({"name": fields.need("name")?}).to_string();
    let place = format!("/admin/v1/orgs/{}/teams", member.me.organisation.org_id);
    visit.client.manage(Method::POST, &place).body(body).send().await?;
    Ok(redirect(&visit.link("/people?done=created")))
}

pub(in crate::console) async fn change_team(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"status": fields.need("status")?}).to_string();
    let place = format!("/admin/v1/teams/{}", visit.param("team"));
    let version = format!("\"{}\"", fields.text("version"));
    visit.client.manage(Method::PATCH, &place).header("if-match", &version).body(body).send().await?;
    Ok(redirect(&visit.link("/people?done=saved")))
}
