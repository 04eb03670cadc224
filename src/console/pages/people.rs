//! The users and teams of an organisation, for its admins.

use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::console::answers::{Page, Person, Team};
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Badge, Id, Name, When};
use crate::console::visit::{Fields, Outcome, Visit, encoded};

#[derive(askama::Template)]
#[template(path = "people.html")]
struct PeoplePage {
    shell: Shell,
    /// The part of a name that is searched for.
    search: String,
    people: Vec<PersonLine>,
    teams: Vec<TeamLine>,
    /// The user or the team that is to be changed: its form stands above the tables.
    user: Option<PersonLine>,
    team: Option<TeamLine>,
    next: Option<String>,
    more_teams: Option<String>,
}

struct PersonLine {
    user_id: String,
    id: Id,
    name: Name,
    plain_name: String,
    is_admin: bool,
    is_active: bool,
    badge: Badge,
    team_id: String,
    team: Option<Name>,
    version: i32,
}

impl PersonLine {
    fn new(one: Person, teams: &[TeamLine]) -> Self {
        let team = one.team_id.as_ref().and_then(|id| teams.iter().find(|team| team.team_id == *id));
        Self {
            team: team.map(|team| Name(team.name.clone())),
            team_id: one.team_id.unwrap_or_default(),
            id: Id(one.user_id.clone()),
            user_id: one.user_id,
            plain_name: one.name.clone(),
            name: Name(one.name),
            is_admin: one.role == "admin",
            is_active: one.status == "active",
            badge: badge(&one.status),
            version: one.version,
        }
    }
}

struct TeamLine {
    team_id: String,
    id: Id,
    name: String,
    is_active: bool,
    badge: Badge,
    version: i32,
}

impl TeamLine {
    fn new(one: Team) -> Self {
        Self {
            id: Id(one.team_id.clone()),
            is_active: one.status == "active",
            badge: badge(&one.status),
            team_id: one.team_id,
            name: one.name,
            version: one.version,
        }
    }
}

fn badge(status: &str) -> Badge {
    if status == "active" { Badge::new("good", "Active") } else { Badge::new("warn", "Suspended") }
}

/// Reads what is to be changed: named by the address, or by the form that was refused.
async fn chosen<T: DeserializeOwned>(visit: &Visit, kind: &str) -> Result<Option<T>, Problem> {
    let named = Some(visit.param(kind)).filter(|id| !id.is_empty());
    let named = named.or_else(|| visit.query().get(kind).map(|id| visit.escaped(id)));
    match named {
        Some(id) => visit.client.look(&format!("/admin/v1/{kind}s/{id}")).await.map(Some),
        None => Ok(None),
    }
}

pub(in crate::console) async fn people(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("People and teams").await?;
    let org = &member.me.organisation.org_id;
    let query = visit.query();
    let teams = query.get("teams").map(|cursor| format!("&cursor={}", encoded(cursor))).unwrap_or_default();
    let (people, teams) = (
        format!("/admin/v1/orgs/{org}/users?limit=30{}", query.passed_on(&["cursor", "search"])),
        format!("/admin/v1/orgs/{org}/teams?limit=50{teams}"),
    );
    let (found, teams, user, team) = tokio::try_join!(
        visit.client.look::<Page<Person>>(&people),
        visit.client.look::<Page<Team>>(&teams),
        chosen::<Person>(&visit, "user"),
        chosen::<Team>(&visit, "team"),
    )?;
    let more_teams = teams.next_cursor.map(|cursor| format!("{}?teams={cursor}", visit.link("/people")));
    let teams: Vec<TeamLine> = teams.items.into_iter().map(TeamLine::new).collect();
    let page = PeoplePage {
        people: found.items.into_iter().map(|one| PersonLine::new(one, &teams)).collect(),
        user: user.map(|one| PersonLine::new(one, &teams)),
        team: team.map(TeamLine::new),
        next: found.next_cursor.map(|cursor| {
            format!("{}?cursor={cursor}{}", visit.link("/people"), query.passed_on(&["search"]))
        }),
        search: query.text("search"),
        more_teams,
        teams,
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

pub(in crate::console) async fn create_user(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    create(&visit, &fields).await?;
    Ok(redirect(&visit.link("/people?done=created")))
}

/// Creates a user and makes a link that lets it in.
pub(in crate::console) async fn invite(visit: Visit) -> Outcome {
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

/// Changes what was filled in of a user: its name, its role, its team, whether it is suspended.
pub(in crate::console) async fn change_user(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let mut body = Map::new();
    for name in ["name", "role", "status"] {
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

pub(in crate::console) async fn create_team(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("People and teams").await?;
    let body = json!({"name": fields.need("name")?}).to_string();
    let place = format!("/admin/v1/orgs/{}/teams", member.me.organisation.org_id);
    visit.client.manage(Method::POST, &place).body(body).send().await?;
    Ok(redirect(&visit.link("/people?done=created")))
}

pub(in crate::console) async fn change_team(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let mut body = Map::new();
    for name in ["name", "status"] {
        if let Some(word) = fields.get(name) {
            body.insert(name.into(), json!(word));
        }
    }
    let place = format!("/admin/v1/teams/{}", visit.param("team"));
    let version = format!("\"{}\"", fields.text("version"));
    let call = visit.client.manage(Method::PATCH, &place).header("if-match", &version);
    call.body(Value::Object(body).to_string()).send().await?;
    Ok(redirect(&visit.link("/people?done=saved")))
}

pub(in crate::console) async fn delete_user(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/users/{}", visit.param("user"));
    delete(&visit, &place).await
}

pub(in crate::console) async fn delete_team(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/teams/{}", visit.param("team"));
    delete(&visit, &place).await
}

/// Deletes what is still as it was when the form was made.
async fn delete(visit: &Visit, place: &str) -> Outcome {
    let version = format!("\"{}\"", visit.form().await?.text("version"));
    visit.client.manage(Method::DELETE, place).header("if-match", &version).send().await?;
    Ok(redirect(&visit.link("/people?done=deleted")))
}
