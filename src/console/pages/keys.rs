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
use crate::console::pages::start::period;
use crate::console::shell::Shell;
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Badge, Id, Name, When, grouped};
use crate::console::visit::{Fields, Outcome, Visit, encoded};
use crate::console::zone::Zone;

#[derive(askama::Template)]
#[template(path = "keys.html")]
struct KeysPage {
    shell: Shell,
    /// The key of this session; none: it was opened without a key.
    mine: Option<Mine>,
    /// Everybody's keys for an admin, a member's own for a member.
    keys: Vec<KeyLine>,
    /// Whose keys are shown; none: everybody's.
    of_user: Option<Name>,
    /// Whom a new key may be for; none: for the visitor alone.
    people: Option<Vec<KeyChoice>>,
    /// What members may do with keys of their own.
    policy: Policy,
    is_admin: bool,
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
    key_budget: Option<KeyBudget>,
    version: i32,
}

/// The budget that each key of a member begins with.
#[derive(Debug, Deserialize)]
struct KeyBudget {
    period: String,
    credits: i64,
}

impl Policy {
    /// The credits of the budget of each key; empty: none.
    fn credits(&self) -> String {
        self.key_budget.as_ref().map_or(String::new(), |budget| budget.credits.to_string())
    }

    fn has_period(&self, period: &str) -> bool {
        self.key_budget.as_ref().is_some_and(|budget| budget.period == period)
    }

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
        let budget = self.key_budget.as_ref().map_or(String::new(), |budget| {
            format!(", each with a budget of {} credits {}", grouped(budget.credits), period(&budget.period))
        });
        format!("You may have {} keys{life}{types}{budget}.", self.max_keys)
    }
}

struct KeyChoice {
    id: String,
    name: String,
    /// Whether the address or the form that was refused names it.
    is_meant: bool,
}

/// A key in the list.
struct KeyLine {
    key_id: String,
    id: Id,
    name: Name,
    plain_name: String,
    user: String,
    badge: Badge,
    version: i32,
    is_suspended: bool,
    last_used: Option<When>,
    expires: Option<When>,
    previous_until: Option<When>,
    types: Option<String>,
    networks: Option<String>,
    /// Calls a minute, where the key has limits of its own.
    rates: Option<String>,
    /// What is spent of the budgets that are for this key alone.
    budgets: Vec<String>,
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
    create_per_minute: Option<i64>,
    status_per_minute: Option<i64>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    previous_until: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
}

/// A key with its text, which is shown once.
#[derive(Debug, Deserialize)]
struct CreatedKey {
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

/// A budget of the level of keys.
#[derive(Debug, Deserialize)]
struct Budget {
    subject_id: Option<String>,
    period: String,
    limit: Option<i64>,
    used: Option<i64>,
    held: Option<i64>,
}

impl Budget {
    fn told(&self) -> String {
        let spent = self.used.unwrap_or(0).saturating_add(self.held.unwrap_or(0));
        let limit = self.limit.map_or("no limit".to_owned(), |limit| format!("of {}", grouped(limit)));
        format!("{} {limit} credits {}", grouped(spent), period(&self.period))
    }
}

/// The limits of a key's own, in words.
fn rates(create: Option<i64>, status: Option<i64>) -> Option<String> {
    let told = |rate: i64, what: &str| match rate {
        0 => format!("{what} without a limit"),
        rate => format!("{} {what} a minute", grouped(rate)),
    };
    let both = [create.map(|rate| told(rate, "creates")), status.map(|rate| told(rate, "other calls"))];
    let both: Vec<String> = both.into_iter().flatten().collect();
    (!both.is_empty()).then(|| both.join(", "))
}

impl KeyLine {
    fn new(key: Key, people: &[Person], budgets: &[Budget], may_change: bool, zone: &Zone) -> Self {
        let now = Clock.wall();
        let badge = match key.status.as_str() {
            "active" => Badge::new("good", "Active"),
            "suspended" => Badge::new("warn", "Suspended"),
            "expired" => Badge::new("bad", "Expired"),
            _ => Badge::new("bad", "Revoked"),
        };
        let user = people.iter().find(|person| person.user_id == key.user_id);
        let own = budgets.iter().filter(|budget| budget.subject_id.as_ref() == Some(&key.key_id));
        Self {
            budgets: own.map(Budget::told).collect(),
            rates: rates(key.create_per_minute, key.status_per_minute),
            id: Id(key.key_id.clone()),
            key_id: key.key_id,
            plain_name: key.name.clone(),
            name: Name(key.name),
            user: user.map_or(key.user_id, |person| person.name.clone()),
            badge,
            is_suspended: key.status == "suspended",
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

/// The user that the address or the form that was refused names. The people that can be chosen are the first ones, and this may be
/// another one.
async fn meant(visit: &Visit, is_admin: bool) -> Result<Option<Person>, Problem> {
    let filled = visit.filled();
    let Some(user) = filled.get("user").filter(|_| is_admin) else { return Ok(None) };
    match visit.client.look(&format!("/admin/v1/users/{}", visit.escaped(user))).await {
        Err(problem) if visit.refusal().is_none() => Err(problem),
        found => Ok(found.ok()),
    }
}

pub(in crate::console) async fn keys(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("Keys").await?;
    let zone = &member.zone;
    let mine = member.me.key.as_ref().map(|key| Mine {
        id: Id(key.key_id.clone()),
        name: Name(key.name.clone()),
        expires: When::maybe(zone, key.expires_at),
    });
    let org = &member.me.organisation.org_id;
    let is_admin = member.me.is_admin();
    let of_user = visit.query().get("user").filter(|_| is_admin);
    let query = visit.query();
    let keys = format!(
        "/admin/v1/orgs/{org}/keys?limit=20{}{}",
        of_user.map(|user| format!("&user_id={}", encoded(user))).unwrap_or_default(),
        query.passed_on(&["cursor"])
    );
    let policy = format!("/admin/v1/orgs/{org}/key-policy");
    // A member knows itself, and nobody else.
    let people = async {
        if is_admin {
            visit.client.look::<Page<Person>>(&format!("/admin/v1/orgs/{org}/users?limit=100")).await
        } else {
            let me = Person {
                user_id: member.me.user.user_id.clone(),
                name: member.me.user.name.clone(),
                ..Person::default()
            };
            Ok(Page { items: vec![me], next_cursor: None })
        }
    };
    // Members cannot see budgets of keys but their own key's, which is on the page of budgets.
    let budgets = async {
        if is_admin {
            let place = format!("/admin/v1/orgs/{org}/budgets?limit=200&level=key");
            visit.client.look::<Page<Budget>>(&place).await
        } else {
            Ok(Page { items: Vec::new(), next_cursor: None })
        }
    };
    let (found, policy, mut people, budgets, meant) = tokio::try_join!(
        visit.client.look::<Page<Key>>(&keys),
        visit.client.look::<Policy>(&policy),
        people,
        budgets,
        meant(&visit, is_admin)
    )?;
    if let Some(meant) = &meant
        && !people.items.iter().any(|person| person.user_id == meant.user_id)
    {
        people.items.push(meant.clone());
    }
    let may_change = is_admin || policy.enabled;
    let line = |key| KeyLine::new(key, &people.items, &budgets.items, may_change, zone);
    let choice = |one: &Person| KeyChoice {
        id: one.user_id.clone(),
        name: one.name.clone(),
        is_meant: meant.as_ref().is_some_and(|meant| meant.user_id == one.user_id),
    };
    let page = KeysPage {
        mine,
        keys: found.items.into_iter().map(line).collect(),
        people: is_admin.then(|| people.items.iter().map(choice).collect()),
        policy,
        is_admin,
        next: found
            .next_cursor
            .map(|cursor| format!("{}?cursor={cursor}{}", visit.link("/keys"), query.passed_on(&["user"]))),
        of_user: of_user.and(meant.as_ref()).map(|meant| Name(meant.name.clone())),
        shell,
    };
    Ok(html(&page))
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
            days.trim().parse().map_err(|_| Trouble::field("days", "The days must be a whole number."))?;
        let end = Clock.wall().checked_add(time::Duration::days(days.clamp(0, 36_500)));
        let end = end.and_then(|end| end.format(&time::format_description::well_known::Rfc3339).ok());
        body.insert("expires_at".into(), json!(end));
    }
    for (field, name) in [("creates", "create_per_minute"), ("others", "status_per_minute")] {
        if let Some(rate) = number(fields, field, "calls a minute")? {
            body.insert(name.into(), json!(rate));
        }
    }
    for (field, name) in [("types", "allowed_types"), ("networks", "allowed_networks")] {
        let words = words(fields, field);
        if !words.is_empty() {
            body.insert(name.into(), json!(words));
        }
    }
    Ok(Value::Object(body))
}

/// A whole number that was typed, if one was.
fn number(fields: &Fields, name: &'static str, what: &str) -> Result<Option<i64>, Trouble> {
    let wrong = |_| Trouble::field(name, format!("The {what} must be a whole number."));
    fields.get(name).map(|text| text.trim().parse().map_err(wrong)).transpose()
}

/// The words of a field, with spaces, commas or lines between them.
fn words<'a>(fields: &'a Fields, field: &str) -> Vec<&'a str> {
    let words = fields.get(field).unwrap_or_default().split([' ', ',', '\n', '\r']);
    words.filter(|word| !word.is_empty()).collect()
}

/// Sets what members may do with keys of their own.
pub(in crate::console) async fn set_policy(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("Keys").await?;
    let types = words(&fields, "types");
    let mut body = json!({
        "enabled": fields.is_set("enabled"),
        "max_days": number(&fields, "days", "days")?,
        "allowed_types": (!types.is_empty()).then_some(types),
        "key_budget": match number(&fields, "credits", "credits")? {
            Some(credits) => json!({"credits": credits, "period": fields.get("period").unwrap_or("monthly")}),
            None => Value::Null,
        },
    });
    if let Some(most) = number(&fields, "most", "number of keys")? {
        body["max_keys"] = json!(most);
    }
    let place = format!("/admin/v1/orgs/{}/key-policy", member.me.organisation.org_id);
    let call = visit.client.manage(Method::PATCH, &place);
    call.header("if-match", &format!("\"{}\"", fields.text("version"))).body(body.to_string()).send().await?;
    Ok(redirect(&visit.link("/keys?done=policy")))
}

pub(in crate::console) async fn create(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, shell) = visit.member("Keys").await?;
    let body = new_key(&fields)?.to_string();
    let place = format!("/admin/v1/orgs/{}/keys", member.me.organisation.org_id);
    let shown = visit.client.manage(Method::POST, &place).body(body).whole::<CreatedKey>().await?;
    Ok(once(&visit, shell, shown, "This is the only time that it is shown."))
}

fn once(visit: &Visit, shell: Shell, shown: CreatedKey, note: &'static str) -> Response {
    html(&ShownPage {
        shell,
        name: Name(shown.name),
        id: Id(shown.key_id),
        text: shown.api_key,
        base_url: visit.public_url(),
        note,
    })
}

pub(in crate::console) async fn rotate(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (_, shell) = visit.member("Keys").await?;
    let hours: u32 = fields.get("hours").and_then(|hours| hours.parse().ok()).unwrap_or(24);
    let body = json!({"overlap_seconds": hours.saturating_mul(3_600)}).to_string();
    let place = format!("/admin/v1/keys/{}/rotate", visit.param("key"));
    let shown = visit.client.manage(Method::POST, &place).body(body).whole::<CreatedKey>().await?;
    let note = "This is the only time that it is shown. The former text works until its overlap ends.";
    Ok(once(&visit, shell, shown, note))
}

pub(in crate::console) async fn revoke(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/keys/{}/revoke", visit.param("key"));
    visit.client.manage(Method::POST, &place).send().await?;
    Ok(redirect(&visit.link("/keys?done=revoked")))
}

/// Refuses creates with a key for now, or takes them again.
pub(in crate::console) async fn set_status(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"status": fields.need("status")?}).to_string();
    let place = format!("/admin/v1/keys/{}", visit.param("key"));
    let version = format!("\"{}\"", fields.text("version"));
    visit.client.manage(Method::PATCH, &place).header("if-match", &version).body(body).send().await?;
    Ok(redirect(&visit.link("/keys?done=saved")))
}

pub(in crate::console) async fn rename(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"name": fields.need("name")?}).to_string();
    let version = fields.text("version");
    let place = format!("/admin/v1/keys/{}", visit.param("key"));
    let call = visit.client.manage(Method::PATCH, &place).header("if-match", &format!("\"{version}\""));
    call.body(body).send().await?;
    Ok(redirect(&visit.link("/keys?done=saved")))
}
