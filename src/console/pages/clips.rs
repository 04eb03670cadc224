//! Clips: the list of tasks, as a table or as a grid of videos.

use url::form_urlencoded::byte_serialize;

use crate::clock::Clock;
use crate::console::answers::{Page, Person, Prices, TaskRow, Tasks};
use crate::console::frame::html;
use crate::console::pages::start::ClipLine;
use crate::console::shell::Shell;
use crate::console::view::{Alert, Name};
use crate::console::visit::{Outcome, Visit};

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

/// One of the values of a filter.
pub(in crate::console) struct Choice {
    pub(in crate::console) value: String,
    pub(in crate::console) text: String,
    pub(in crate::console) is_chosen: bool,
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

/// How many months can be chosen.
const MONTHS: usize = 13;

/// This month and the ones before it, newest first: `2026-11`.
pub(in crate::console) fn months(this: &str) -> Vec<String> {
    let Some((year, month)) = this.split_once('-') else { return Vec::new() };
    let (Ok(mut year), Ok(mut month)) = (year.parse::<i32>(), month.parse::<u32>()) else {
        return Vec::new();
    };
    let mut months = Vec::with_capacity(MONTHS);
    for _ in 0..MONTHS {
        months.push(format!("{year:04}-{month:02}"));
        (year, month) = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
    }
    months
}

pub(in crate::console) async fn clips(visit: Visit) -> Outcome {
    let query = visit.query();
    let (member, shell) = visit.member("Clips").await?;
    let zone = &member.zone;
    let month = query.text("month");
    let mut place = format!("/api/tasks?limit={SHOWN}");
    for name in ["status", "user", "key", "label", "type", "cursor"] {
        if let Some(text) = query.get(name) {
            let text: String = byte_serialize(text.trim().as_bytes()).collect();
            place.push_str(&format!("&{name}={text}"));
        }
    }
    if let Some((since, until)) = zone.bounds(&month) {
        place.push_str(&format!("&since={since}&until={until}"));
    }
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
    let people = match member.me.is_admin() {
        true => {
            let place = format!("/admin/v1/orgs/{}/users?limit=200", member.me.organisation.org_id);
            visit.client.look::<Page<Person>>(&place).await?.items
        }
        false => Vec::new(),
    };
    let named = |task: &TaskRow| {
        let person = people.iter().find(|person| person.user_id == task.user_id);
        ClipLine {
            user: person.map(|person| Name(person.name.clone())),
            ..ClipLine::new(task, visit.base(), zone)
        }
    };
    let status = query.text("status");
    let choice = |value: &str, text: &str, chosen: &str| Choice {
        value: value.to_owned(),
        text: text.to_owned(),
        is_chosen: value == chosen,
    };
    let mut all_months = vec![choice("", "Any", &month)];
    all_months.extend(months(&zone.month(Clock.wall())).iter().map(|one| choice(one, one, &month)));
    // Without prices the list is of use all the same.
    let task_type = query.text("type");
    let mut types = vec![choice("", "Any", &task_type)];
    let known = prices.map(|prices| prices.types).unwrap_or_default();
    types.extend(known.iter().map(|one| choice(&one.task_type, &one.task_type, &task_type)));
    if !task_type.is_empty() && !known.iter().any(|one| one.task_type == task_type) {
        types.push(choice(&task_type, &task_type, &task_type));
    }
    let user = query.text("user");
    let mut users = vec![choice("", "Everybody", &user)];
    users.extend(people.iter().map(|person| choice(&person.user_id, &person.name, &user)));
    if !user.is_empty() && !people.iter().any(|person| person.user_id == user) {
        users.push(choice(&user, &user, &user));
    }
    let running = list.tasks.iter().any(TaskRow::is_running);
    let page = ClipsPage {
        clips: list.tasks.iter().map(named).collect(),
        alert,
        statuses: STATUSES.iter().map(|(value, text)| choice(value, text, &status)).collect(),
        months: all_months,
        key: query.text("key"),
        label: query.text("label"),
        types,
        show_user: member.me.is_admin(),
        grid: query.get("view") == Some("grid"),
        filters: query.query_without(&["view", "cursor", "look"]),
        people: users,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_go_back_over_the_turn_of_the_year() {
        let months = months("2026-02");
        assert_eq!((months.len(), months[1].as_str(), months[2].as_str()), (13, "2026-01", "2025-12"));
        assert!(super::months("nonsense").is_empty());
    }
}
