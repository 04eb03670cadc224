//! The budgets of an organisation: what is spent of each, a raise with an end, and new ones for teams, users and keys.

use http::Method;
use serde::Deserialize;
use serde_json::{Map, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::Clock;
use crate::console::answers::{Me, MyBudget, Page, Person, Team};
use crate::console::frame::html;
use crate::console::pages::start::{Ask, BudgetLine, period};
use crate::console::shell::Shell;
use crate::console::table::Cell;
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Badge, Meter, Money, Name, When};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

#[derive(askama::Template)]
#[template(path = "budgets.html")]
struct BudgetsPage {
    shell: Shell,
    mine: Vec<BudgetLine>,
    /// All budgets of the organisation; none: the visitor is no admin.
    all: Option<Vec<OrgBudget>>,
    /// What somebody asks for, by a link.
    asked: Option<Wish>,
    /// What was asked for: of a member its own, of an admin what is not answered yet.
    requests: Vec<RequestLine>,
    people: Vec<Person>,
    teams: Vec<Team>,
    /// A key that the form of a new budget offers: the page of keys leads here.
    key: Option<String>,
    next: Option<String>,
}

/// A wish for a larger budget, as its link tells it.
struct Wish {
    whose: Name,
    /// As the form of a new budget takes it.
    subject: String,
    period: String,
    window: &'static str,
    credits: i64,
    shown: Money,
    /// The budget that there is, with its version; none: one of the wider ones applies.
    existing: Option<(String, i32)>,
}

struct OrgBudget {
    budget_id: String,
    whose: Cell,
    level: &'static str,
    period: &'static str,
    limit: Option<Money>,
    used: Option<Money>,
    meter: Option<Meter>,
    raised: Option<When>,
    resets: Option<When>,
    version: i32,
    counting: bool,
    may_change: bool,
}

#[derive(Debug, Deserialize)]
struct Budget {
    budget_id: String,
    level: String,
    subject_id: Option<String>,
    period: String,
    limit: Option<i64>,
    used: Option<i64>,
    held: Option<i64>,
    version: i32,
    counting: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    raised_until: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    resets_at: Option<OffsetDateTime>,
}

/// A wish for more, and what was answered.
#[derive(Debug, Deserialize)]
struct Request {
    request_id: String,
    user_id: String,
    level: String,
    period: String,
    credits: i64,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    reason: String,
    state: String,
    answer: Option<String>,
}

struct RequestLine {
    request_id: String,
    who: Name,
    level: &'static str,
    period: &'static str,
    credits: Money,
    until: When,
    reason: String,
    badge: Badge,
    answer: Option<String>,
    /// Whether an admin of the organisation can grant it.
    can_grant: bool,
}

impl RequestLine {
    fn new(one: Request, people: &[Person], zone: &Zone) -> Self {
        let person = people.iter().find(|person| person.user_id == one.user_id);
        Self {
            request_id: one.request_id,
            who: Name(person.map_or(one.user_id, |person| person.name.clone())),
            level: level(&one.level),
            period: period(&one.period),
            credits: Money(one.credits),
            until: When::new(zone, one.until),
            reason: one.reason,
            badge: match one.state.as_str() {
                "open" => Badge::new("busy", "Not answered yet"),
                "granted" => Badge::new("good", "Granted"),
                _ => Badge::new("bad", "Declined"),
            },
            answer: one.answer,
            can_grant: ["key", "user", "team"].contains(&one.level.as_str()),
        }
    }
}

fn level(level: &str) -> &'static str {
    match level {
        "key" => "Key",
        "user" => "User",
        "team" => "Team",
        _ => "Organisation",
    }
}

impl OrgBudget {
    fn new(budget: Budget, people: &[Person], teams: &[Team], zone: &Zone) -> Self {
        let whose = match &budget.subject_id {
            None if budget.level == "organisation" => Cell::text("The organisation"),
            None => Cell::text("Everyone without one of their own"),
            Some(id) => {
                let person = people.iter().find(|one| one.user_id == *id).map(|one| one.name.clone());
                let team = || teams.iter().find(|one| one.team_id == *id).map(|one| one.name.clone());
                person.or_else(team).map_or_else(|| Cell::id(id), |name| Cell::of(Name(name)))
            }
        };
        let used = budget.used.map(|used| used.saturating_add(budget.held.unwrap_or(0)));
        Self {
            budget_id: budget.budget_id,
            whose,
            level: level(&budget.level),
            period: period(&budget.period),
            limit: budget.limit.map(Money),
            used: used.map(Money),
            meter: used.zip(budget.limit).map(|(used, limit)| Meter { used, limit }),
            raised: When::maybe(zone, budget.raised_until.filter(|until| *until > Clock.wall())),
            resets: When::maybe(zone, budget.resets_at),
            version: budget.version,
            counting: budget.counting,
            may_change: budget.level != "organisation",
        }
    }
}

pub(in crate::console) async fn budgets(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("Budgets").await?;
    let zone = &member.zone;
    let place = format!("{}/console/budgets", visit.public_url());
    let org = &member.me.organisation.org_id;
    let wishes = format!("/admin/v1/orgs/{org}/budget-requests");
    let mine = BudgetLine::all_asking(&member.me.budgets, zone, |budget| ask(&place, &member.me, budget));
    if !member.me.is_admin() {
        let own = [Person {
            name: member.me.user.name.clone(),
            user_id: member.me.user.user_id.clone(),
            ..Person::default()
        }];
        let requests = visit.client.look::<Page<Request>>(&format!("{wishes}?limit=10")).await?;
        let requests = requests.items.into_iter().map(|one| RequestLine::new(one, &own, zone)).collect();
        let (people, teams) = (Vec::new(), Vec::new());
        let page = BudgetsPage {
            shell,
            mine,
            all: None,
            asked: None,
            requests,
            people,
            teams,
            key: None,
            next: None,
        };
        return Ok(html(&page));
    }
    let cursor = visit.query().get("cursor").map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let places = [
        format!("/admin/v1/orgs/{org}/budgets?limit=20{cursor}"),
        format!("/admin/v1/orgs/{org}/users?limit=100"),
        format!("/admin/v1/orgs/{org}/teams?limit=100"),
        format!("{wishes}?limit=20&state=open"),
    ];
    let (found, people, teams, requests) = tokio::try_join!(
        visit.client.look::<Page<Budget>>(&places[0]),
        visit.client.look::<Page<Person>>(&places[1]),
        visit.client.look::<Page<Team>>(&places[2]),
        visit.client.look::<Page<Request>>(&places[3]),
    )?;
    let asked = asked(&visit, org, &people.items, &teams.items).await?;
    let all =
        found.items.into_iter().map(|one| OrgBudget::new(one, &people.items, &teams.items, zone)).collect();
    let page = BudgetsPage {
        mine,
        all: Some(all),
        asked,
        requests: requests.items.into_iter().map(|one| RequestLine::new(one, &people.items, zone)).collect(),
        key: visit.query().get("key").map(ToOwned::to_owned),
        people: people.items,
        teams: teams.items,
        next: found.next_cursor.map(|cursor| format!("{}?cursor={cursor}", visit.link("/budgets"))),
        shell,
    };
    Ok(html(&page))
}

/// How to ask for half as much again of a budget.
fn ask(place: &str, me: &Me, budget: &MyBudget) -> Option<Ask> {
    let credits = budget.limit?.saturating_mul(3).checked_div(2)?.max(1);
    let link = ask_link(place, me, budget, credits);
    Some(Ask { level: budget.level.clone(), period: budget.period.clone(), credits, link })
}

/// The link by which an admin grants it; an organisation's own budget is the operators' business.
fn ask_link(place: &str, me: &Me, budget: &MyBudget, credits: i64) -> Option<String> {
    let id = match budget.level.as_str() {
        "user" => Some(&me.user.user_id),
        "team" => me.team.as_ref().map(|team| &team.team_id),
        "key" => me.key.as_ref().map(|key| &key.key_id),
        _ => None,
    }?;
    Some(format!("{place}?ask={}:{id}&period={}&credits={credits}", budget.level, budget.period))
}

/// What the address asks for, if it is a link of [`ask`].
async fn asked(visit: &Visit, org: &str, people: &[Person], teams: &[Team]) -> Result<Option<Wish>, Trouble> {
    let query = visit.query();
    let (Some(subject), Some(window), Some(credits)) =
        (query.get("ask"), query.get("period"), query.get("credits"))
    else {
        return Ok(None);
    };
    let (level, id) = subject.split_once(':').unwrap_or((subject, ""));
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let place = format!(
        "/admin/v1/orgs/{org}/budgets?level={}&subject_id={}&period={}",
        encoded(level),
        encoded(id),
        encoded(window)
    );
    let found: Page<Budget> = visit.client.look(&place).await?;
    let person = people.iter().find(|one| one.user_id == id).map(|one| one.name.clone());
    let team = teams.iter().find(|one| one.team_id == id).map(|one| one.name.clone());
    let credits = whole(credits)?;
    Ok(Some(Wish {
        whose: Name(person.or(team).unwrap_or_else(|| id.to_owned())),
        subject: subject.to_owned(),
        period: window.to_owned(),
        window: period(window),
        credits,
        shown: Money(credits),
        existing: found.items.first().map(|budget| (budget.budget_id.clone(), budget.version)),
    }))
}

/// A whole number that was typed into a form.
fn whole(text: &str) -> Result<i64, Trouble> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
    digits.parse().map_err(|_| Trouble::field("credits", "The credits must be a whole number."))
}

pub(in crate::console) async fn create(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("Budgets").await?;
    let subject = fields.need("subject")?;
    let mut body = Map::new();
    // `team:team_…`, `user:usr_…`, or a level for everyone of it.
    let (level, id) = subject.split_once(':').unwrap_or((subject, ""));
    body.insert("level".into(), json!(level));
    if !id.is_empty() {
        body.insert("subject_id".into(), json!(id));
    }
    body.insert("period".into(), json!(fields.need("period")?));
    body.insert("credits".into(), json!(fields.get("credits").map(whole).transpose()?));
    let place = format!("/admin/v1/orgs/{}/budgets", member.me.organisation.org_id);
    visit
        .client
        .manage(Method::POST, &place)
        .body(serde_json::Value::Object(body).to_string())
        .send()
        .await?;
    Ok(redirect(&visit.link("/budgets?done=created")))
}

/// The end of so many days from now, as the API takes it.
fn end_of(days: i64) -> Option<String> {
    Clock.wall().checked_add(time::Duration::days(days.clamp(1, 3_650)))?.format(&Rfc3339).ok()
}

fn days(fields: &Fields) -> i64 {
    fields.get("days").and_then(|days| days.trim().parse().ok()).unwrap_or(0)
}

/// Asks the admins for more of a budget.
pub(in crate::console) async fn ask_for_more(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("Budgets").await?;
    let body = json!({
        "level": fields.need("level")?,
        "period": fields.need("period")?,
        "credits": whole(fields.need("credits")?)?,
        "until": end_of(days(&fields)),
        "reason": fields.need("reason")?,
    });
    let place = format!("/admin/v1/orgs/{}/budget-requests", member.me.organisation.org_id);
    visit.client.manage(Method::POST, &place).body(body.to_string()).send().await?;
    Ok(redirect(&visit.link("/budgets?done=asked")))
}

/// Grants what was asked for, or declines it.
pub(in crate::console) async fn answer(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (member, _) = visit.member("Budgets").await?;
    let (answer, word) = match visit.param("answer").as_str() {
        "grant" => ("grant", "granted"),
        "decline" => ("decline", "declined"),
        _ => return Err(Trouble::not_found("There is no such form.")),
    };
    let body = fields.get("answer").map_or_else(|| json!({}), |answer| json!({"answer": answer}));
    let (org, request) = (&member.me.organisation.org_id, visit.param("request"));
    let place = format!("/admin/v1/orgs/{org}/budget-requests/{request}/{answer}");
    visit.client.manage(Method::POST, &place).body(body.to_string()).send().await?;
    Ok(redirect(&visit.link(&format!("/budgets?done={word}"))))
}

/// Changes a limit for good, or raises it for some days.
pub(in crate::console) async fn change(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let credits = whole(fields.need("credits")?)?;
    let version = format!("\"{}\"", fields.text("version"));
    let place = format!("/admin/v1/budgets/{}", visit.param("budget"));
    let days = days(&fields);
    if days > 0 {
        let body = json!({"credits": credits, "until": end_of(days)}).to_string();
        let call = visit.client.manage(Method::POST, &format!("{place}/raise")).header("if-match", &version);
        call.body(body).send().await?;
    } else {
        let call = visit.client.manage(Method::PATCH, &place).header("if-match", &version);
        call.body(json!({"credits": credits}).to_string()).send().await?;
    }
    Ok(redirect(&visit.link("/budgets?done=saved")))
}

pub(in crate::console) async fn delete(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let version = format!("\"{}\"", fields.text("version"));
    let place = format!("/admin/v1/budgets/{}", visit.param("budget"));
    visit.client.manage(Method::DELETE, &place).header("if-match", &version).send().await?;
    Ok(redirect(&visit.link("/budgets?done=deleted")))
}
