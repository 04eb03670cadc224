//! Clips: the list of tasks, as a table or as a grid of videos.

use url::form_urlencoded::byte_serialize;

use crate::clock::Clock;
use crate::console::answers::{Me, Page, Person, Prices, TaskRow, Tasks};
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices, months};
use crate::console::pages::start::ClipLine;
use crate::console::shell::Shell;
use crate::console::view::{Alert, Name};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

/// How many clips a page has.
const SHOWN: u32 = 24;

#[derive(askama::Template)]
#[template(path = "clips.html")]
struct ClipsPage {
    shell: Shell,
    clips: Vec<ClipLine>,
    alert: Option<Alert>,
    statuses: Vec<Choice>,
    months: Vec<Choice>,
    key: String,
    label: String,
    types: Vec<Choice>,
    show_user: bool,
    grid: bool,
    /// The filters, for the links between table and grid.
    filters: String,
    is_filtered: bool,
    /// Whether a task of the page is under way.
    is_live: bool,
    people: Vec<Choice>,
    next: Option<String>,
}

const STATUSES: [(&str, &str); 7] = [
    ("", "Any"),
    ("IN_PROGRESS", "Running"),
    ("SUCCESS", "Done"),
    ("FAILED", "Failed"),
    ("IN_DOUBT", "In doubt"),
    ("WRITTEN_OFF", "Written off"),
    ("SETTLED", "Charged"),
];

/// The call that lists what the filters leave.
fn place(query: &Fields, zone: &Zone) -> String {
    let mut place = format!("/api/tasks?limit={SHOWN}");
    for name in ["status", "user", "key", "label", "type", "cursor"] {
        if let Some(text) = query.get(name) {
            let text: String = byte_serialize(text.trim().as_bytes()).collect();
            place.push_str(&format!("&{name}={text}"));
        }
    }
    if let Some((since, until)) = zone.bounds(&query.text("month")) {
        place.push_str(&format!("&since={since}&until={until}"));
    }
    place
}

/// The people of the organisation, for an admin; a member sees what is its own.
async fn people(visit: &Visit, me: &Me) -> Result<Vec<Person>, Problem> {
    if !me.is_admin() {
        return Ok(Vec::new());
    }
    let place = format!("/admin/v1/orgs/{}/users?limit=200", me.organisation.org_id);
    let mut people = visit.client.look::<Page<Person>>(&place).await?.items;
    // These are the first ones: any other is named by the address, from the page of people.
    if let Some(user) = visit.query().get("user")
        && !people.iter().any(|person| person.user_id == user)
        && let Ok(person) = visit.client.look(&format!("/admin/v1/users/{}", visit.escaped(user))).await
    {
        people.push(person);
    }
    Ok(people)
}

/// `all` or one of the known values; what is chosen is a choice also if it is not known any more.
fn known_choices<'a>(
    all: &'a str,
    known: impl Iterator<Item = (&'a str, &'a str)>,
    chosen: &str,
) -> Vec<Choice> {
    let mut choices = choices([("", all)].into_iter().chain(known), chosen);
    if !choices.iter().any(|choice| choice.is_chosen) {
        choices.push(Choice::new(chosen, chosen, chosen));
    }
    choices
}

pub(in crate::console) async fn clips(visit: Visit) -> Outcome {
    let query = visit.query();
    let (member, shell) = visit.member("Clips").await?;
    let (zone, place) = (&member.zone, place(query, &member.zone));
    let (found, prices) =
        tokio::join!(visit.client.read::<Tasks>(&place), visit.client.read::<Prices>("/api/prices"));
    let (list, alert) = match found {
        Ok(list) => (list, None),
        // A filter that is wrong is told beside the filters.
        Err(problem) if problem.status.is_client_error() && !problem.is_passing() => {
            (Tasks { tasks: Vec::new(), next_cursor: None }, Some(Alert::of(&problem)))
        }
        Err(problem) => return Err(problem.into()),
    };
    let people = people(&visit, &member.me).await?;
    let named = |task: &TaskRow| {
        let person = people.iter().find(|person| person.user_id == task.user_id);
        ClipLine {
            user: person.map(|person| Name(person.name.clone())),
            ..ClipLine::new(task, visit.base(), zone)
        }
    };
    let months = months(&zone.month(Clock.wall()));
    let months = months.iter().map(|month| (month.as_str(), month.as_str()));
    // Without prices the list is of use all the same.
    let types = prices.map(|prices| prices.types).unwrap_or_default();
    let types = types.iter().map(|one| (one.task_type.as_str(), one.task_type.as_str()));
    let users = people.iter().map(|person| (person.user_id.as_str(), person.name.as_str()));
    let running = list.tasks.iter().any(TaskRow::is_running);
    let page = ClipsPage {
        clips: list.tasks.iter().map(named).collect(),
        alert,
        statuses: choices(STATUSES, &query.text("status")),
        months: choices([("", "Any")].into_iter().chain(months), &query.text("month")),
        key: query.text("key"),
        label: query.text("label"),
        types: known_choices("Any", types, &query.text("type")),
        show_user: member.me.is_admin(),
        grid: query.get("view") == Some("grid"),
        filters: query.query_without(&["view", "cursor", "look"]),
        people: known_choices("Everybody", users, &query.text("user")),
        is_live: running,
        is_filtered: ["status", "user", "key", "label", "type", "month"]
            .iter()
            .any(|name| query.is_set(name)),
        next: list.next_cursor.map(|cursor| {
            format!("{}?{}&cursor={cursor}", visit.link("/clips"), query.query_without(&["cursor", "look"]))
        }),
        shell: shell.refreshed(&visit, running.then_some(5)),
    };
    Ok(html(&page))
}
