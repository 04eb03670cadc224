//! API keys: an admin's view of everybody's, and a member's of its own.

use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::clock::Clock;
use crate::console::answers::{Page, Person};
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::shell::{Member, Shell};
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Alert, Badge, Id, Name, When};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

#[derive(askama::Template)]
#[template(path = "keys.html")]
struct KeysPage {
    shell: Shell,
    /// The key of this session; none: it was opened without a key.
    mine: Option<Mine>,
    /// Everybody's keys for an admin, a member's own for a member.
    keys: Vec<KeyLine>,
    /// Whom a new key may be for; none: for the visitor alone.
    people: Option<Vec<Choice>>,
    /// What members may do with keys of their own.
    policy: Policy,
    is_admin: bool,
    alert: Option<Alert>,
    next: Option<String>,
}

struct Mine {
    id: Id,
    name: Name,
    expires: Option<When>,
}

/// What members may do with keys of their own, as the API says it.
#[derive(Debug, Deserialize)]
struct Policy {
    enabled: bool,
    max_keys: i32,
    max_days: Option<i32>,
    allowed_types: Option<Vec<String>>,
    key_budget: Option<Value>,
    version: i32,
}

impl Policy {
    fn days(&self) -> String {
        self.max_days.map_or(String::new(), |days| days.to_string())
    }

    /// The task types with spaces between them; empty: all.
    fn types(&self) -> String {
        self.allowed_types.as_ref().map_or(String::new(), |types| types.join(" "))
    }

    /// What a member reads before it makes a key.
    fn told(&self) -> String {
        let life = self.max_days.map_or(String::new(), |days| format!(", each for at most {days} days"));
        let types =
            self.allowed_types.as_ref().map_or(String::new(), |types| format!(", for {}", types.join(", ")));
        let budget = self.key_budget.as_ref().map_or("", |_| ", each with a budget that the admin has set");
        format!("You may have {} keys{life}{types}{budget}.", self.max_keys)
    }
}

struct Choice {
    id: String,
    name: String,
}

/// A key in the list.
struct KeyLine {
    key_id: String,
    id: Id,
    name: Name,
    user: String,
    badge: Badge,
    version: i32,
    last_used: Option<When>,
    expires: Option<When>,
    previous_until: Option<When>,
    types: Option<String>,
    networks: Option<String>,
    is_usable: bool,
}

#[derive(Debug, Deserialize)]
struct Key {
    key_id: String,
    user_id: String,
    name: String,
    status: String,
    version: i32,
    allowed_types: Option<Vec<String>>,
    allowed_networks: Option<Vec<String>>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    previous_until: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
}

/// A key with its text, which is shown once.
#[derive(Debug, Deserialize)]
struct Shown {
    api_key: String,
    name: String,
    key_id: String,
}

#[derive(askama::Template)]
#[template(path = "key_shown.html")]
struct ShownPage {
    shell: Shell,
    name: Name,
    id: Id,
    text: String,
    base_url: String,
    note: &'static str,
}

impl KeyLine {
    fn new(key: Key, people: &[Person], may_change: bool, zone: &Zone, now: OffsetDateTime) -> Self {
        let badge = match key.status.as_str() {
            "active" => Badge::new("good", "Active"),
            "suspended" => Badge::new("warn", "Suspended"),
            "expired" => Badge::new("bad", "Expired"),
            _ => Badge::new("bad", "Revoked"),
        };
        let user = people.iter().find(|person| person.user_id == key.user_id);
        Self {
            id: Id(key.key_id.clone()),
            key_id: key.key_id,
            name: Name(key.name),
            user: user.map_or(key.user_id, |person| person.name.clone()),
            badge,
            version: key.version,
            last_used: When::maybe(zone, key.last_used_at),
            expires: When::maybe(zone, key.expires_at),
            previous_until: When::maybe(zone, key.previous_until.filter(|until| *until > now)),
            types: key.allowed_types.map(|types| types.join(", ")),
            networks: key.allowed_networks.map(|networks| networks.join(", ")),
            is_usable: may_change && ["active", "suspended"].contains(&key.status.as_str()),
        }
    }
}

pub(in crate::console) async fn keys(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("Keys").await?;
    Ok(html(&list(&visit, member, shell, None).await?))
}

/// The list, with what was refused.
async fn list(
    visit: &Visit,
    member: Member,
    shell: Shell,
    refused: Option<&Problem>,
) -> Result<KeysPage, Trouble> {
    let zone = &member.zone;
    let mine = member.me.key.as_ref().map(|key| Mine {
        id: Id(key.key_id.clone()),
        name: Name(key.name.clone()),
        expires: When::maybe(zone, key.expires_at),
    });
    let org = &member.me.organisation.org_id;
    let cursor = visit.query().get("cursor").map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let (keys, policy) =
        (format!("/admin/v1/orgs/{org}/keys?limit=50{cursor}"), format!("/admin/v1/orgs/{org}/key-policy"));
    let is_admin = member.me.is_admin();
    // A member knows itself, and nobody else.
    let people = async {
        if is_admin {
            visit.client.look::<Page<Person>>(&format!("/admin/v1/orgs/{org}/users?limit=200")).await
        } else {
            let me = Person {
                user_id: member.me.user.user_id.clone(),
                name: member.me.user.name.clone(),
                ..Person::default()
            };
            Ok(Page { items: vec![me], next_cursor: None })
        }
    };
    let (found, policy, people) = tokio::try_join!(
        visit.client.look::<Page<Key>>(&keys),
        visit.client.look::<Policy>(&policy),
        people
    )?;
    let (now, may_change) = (Clock.wall(), is_admin || policy.enabled);
    let line = |key| KeyLine::new(key, &people.items, may_change, zone, now);
    let choice = |one: &Person| Choice { id: one.user_id.clone(), name: one.name.clone() };
    Ok(KeysPage {
        mine,
        keys: found.items.into_iter().map(line).collect(),
        people: is_admin.then(|| people.items.iter().map(choice).collect()),
        policy,
        is_admin,
        alert: refused.map(Alert::of),
        next: found.next_cursor.map(|cursor| format!("{}?cursor={cursor}", visit.link("/keys"))),
        shell,
    })
}

/// The fields of a new key, as the API takes them.
fn new_key(fields: &Fields) -> Result<Value, Trouble> {
    let mut body = Map::new();
    // Left out: for the caller.
    if let Some(user) = fields.get("user") {
        body.insert("user_id".into(), json!(user));
    }
    body.insert("name".into(), json!(fields.need("name")?));
    if let Some(days) = fields.get("days") {
        let days: i64 =
            days.trim().parse().map_err(|_| Trouble::bad_request("The days must be a whole number."))?;
        let end = Clock.wall().checked_add(time::Duration::days(days.clamp(0, 36_500)));
        let end = end.and_then(|end| end.format(&time::format_description::well_known::Rfc3339).ok());
        body.insert("expires_at".into(), json!(end));
    }
    for (field, name) in [("types", "allowed_types"), ("networks", "allowed_networks")] {
        let words = words(fields, field);
        if !words.is_empty() {
            body.insert(name.into(), json!(words));
        }
    }
    Ok(Value::Object(body))
}

/// The words of a field, with spaces, commas or lines between them.
fn words<'a>(fields: &'a Fields, field: &str) -> Vec<&'a str> {
    let words = fields.get(field).unwrap_or_default().split([' ', ',', '\n', '\r']);
    words.filter(|word| !word.is_empty()).collect()
}

/// Sets what members may do with keys of their own.
pub(in crate::console) async fn set_policy(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("Keys").await?;
    let number = |name: &str, what: &str| match fields.get(name) {
        None => Ok(None),
        Some(text) => match text.trim().parse::<i32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Trouble::bad_request(format!("The {what} must be a whole number."))),
        },
    };
    let types = words(&fields, "types");
    let mut body = json!({
        "enabled": fields.is_set("enabled"),
        "max_days": number("days", "days")?,
        "allowed_types": (!types.is_empty()).then_some(types),
    });
    if let Some(most) = number("most", "number of keys")? {
        body["max_keys"] = json!(most);
    }
    let place = format!("/admin/v1/orgs/{}/key-policy", member.me.organisation.org_id);
    let call = visit.client.manage(Method::PATCH, &place);
    call.header("if-match", &format!("\"{}\"", fields.text("version"))).body(body.to_string()).send().await?;
    Ok(redirect(&visit.link("/keys?done=policy")))
}

pub(in crate::console) async fn create(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, shell) = visit.member("Keys").await?;
    let body = new_key(&fields)?.to_string();
    let place = format!("/admin/v1/orgs/{}/keys", member.me.organisation.org_id);
    match visit.client.manage(Method::POST, &place).body(body).whole::<Shown>().await {
        Ok(shown) => Ok(once(&visit, shell, shown, "This is the only time that it is shown.")),
        Err(problem) => refused(&visit, member, shell, &problem).await,
    }
}

/// The list again, with what was refused above it.
async fn refused(visit: &Visit, member: Member, shell: Shell, problem: &Problem) -> Outcome {
    let mut answer = html(&list(visit, member, shell, Some(problem)).await?);
    *answer.status_mut() = problem.status;
    Ok(answer)
}

fn once(visit: &Visit, shell: Shell, shown: Shown, note: &'static str) -> Response {
    html(&ShownPage {
        shell,
        name: Name(shown.name),
        id: Id(shown.key_id),
        text: shown.api_key,
        base_url: visit.public_url(),
        note,
    })
}

pub(in crate::console) async fn rotate(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, shell) = visit.member("Keys").await?;
    let hours: u32 = fields.get("hours").and_then(|hours| hours.parse().ok()).unwrap_or(24);
    let body = json!({"overlap_seconds": hours.saturating_mul(3_600)}).to_string();
    let place = format!("/admin/v1/keys/{}/rotate", visit.param("key"));
    match visit.client.manage(Method::POST, &place).body(body).whole::<Shown>().await {
        Ok(shown) => Ok(once(
            &visit,
            shell,
            shown,
            "This is the only time that it is shown. The former text works until its overlap ends.",
        )),
        Err(problem) => refused(&visit, member, shell, &problem).await,
    }
}

pub(in crate::console) async fn revoke(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/keys/{}/revoke", visit.param("key"));
    visit.client.manage(Method::POST, &place).send().await?;
    Ok(redirect(&visit.link("/keys?done=revoked")))
}

pub(in crate::console) async fn rename(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"name": fields.need("name")?}).to_string();
    let version = fields.text("version");
    let place = format!("/admin/v1/keys/{}", visit.param("key"));
    let call = visit.client.manage(Method::PATCH, &place).header("if-match", &format!("\"{version}\""));
    call.body(body).send().await?;
    Ok(redirect(&visit.link("/keys?done=saved")))
}
