//! One clip: its video, its life with times, and why it cost what it cost.

use axum::response::Response;
use http::Method;
use serde_json::Value;
use time::OffsetDateTime;
use url::{Url, form_urlencoded};

use crate::console::answers::{Status, TaskDetail};
use crate::console::frame::html;
use crate::console::pages::playground::factor;
use crate::console::shell::{Member, Shell};
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Badge, Id, Labels, Money, Name, When};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(askama::Template)]
#[template(path = "clip.html")]
struct ClipPage {
    shell: Shell,
    badge: Badge,
    task_type: String,
    /// The id in the addresses of this page.
    task: String,
    task_id: Id,
    reference: Id,
    user: Name,
    key: Option<Name>,
    labels: Labels,
    prompt: Option<String>,
    /// What was asked for beside the prompt.
    asked: Vec<(String, String)>,
    /// The form of the playground, filled in with the same.
    again: String,
    screen: Screen,
    /// Whether the page changes by itself.
    is_live: bool,
    life: Vec<LifeStep>,
    cost: Cost,
    may_erase: bool,
}

/// What is where the video would be.
pub(in crate::console) enum Screen {
    Running,
    Doubt,
    Failed(String),
    /// The video can be shown here, if its host is allowed.
    Video(Video),
    /// A result that is no link to a video is shown as text.
    Other(String),
    Gone,
}

pub(in crate::console) struct Video {
    /// A link of this console that leads to the video.
    pub(in crate::console) link: String,
    /// The video's own link, to be copied.
    own: String,
    host: String,
    pub(in crate::console) plays_here: bool,
}

/// A step of the life of a task.
struct LifeStep {
    name: &'static str,
    note: String,
    at: Option<When>,
}

/// Why it cost what it cost.
struct Cost {
    total: Money,
    what: &'static str,
    list: Money,
    factor: String,
    held: Money,
    reported: Option<Money>,
    returned: Option<Money>,
    book: i32,
    entry: Option<Id>,
}

impl Cost {
    fn of(task: &TaskDetail) -> Self {
        let what = match (task.status.as_str(), task.state.as_str()) {
            ("SUCCESS", _) => "charged",
            ("FAILED", _) => "charged: it failed",
            (_, "IN_DOUBT") => "held until the outcome is known",
            _ => "held while it runs",
        };
        let over = task.status == "SUCCESS" && task.consumed_credits < task.held_credits;
        Self {
            total: Money(task.consumed_credits),
            what,
            list: Money(task.list_price),
            factor: factor(task.price_factor_bp),
            held: Money(task.held_credits),
            reported: task.reported_credits.map(Money),
            returned: over.then(|| Money(task.held_credits.saturating_sub(task.consumed_credits))),
            book: task.price_book,
            entry: task.entry_id.clone().map(Id),
        }
    }
}

/// The first link in what the vendor answered.
fn link(value: &Value, depth: usize) -> Option<&str> {
    match value {
        Value::String(text) => Some(text.as_str()).filter(|text| web(text).is_some()),
        Value::Array(items) if depth < 4 => items.iter().find_map(|item| link(item, depth + 1)),
        Value::Object(fields) if depth < 4 => fields.values().find_map(|item| link(item, depth + 1)),
        _ => None,
    }
}

/// A link that a browser may follow: never `javascript:` or `data:`.
fn web(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim()).ok()?;
    (["https", "http"].contains(&url.scheme()) && url.has_host()).then_some(url)
}

fn life(task: &TaskDetail, zone: &Zone) -> Vec<LifeStep> {
    let at = |instant: Option<OffsetDateTime>| When::maybe(zone, instant);
    let step = |name, note: String, at| LifeStep { name, note, at };
    let mut steps = vec![step(
        "Reserved",
        format!("{} credits were held before anything was sent", task.held_credits),
        at(Some(task.created_at)),
    )];
    if task.doubt_at.is_some() {
        steps.push(step("In doubt", "the answer of the video service was lost".into(), at(task.doubt_at)));
    }
    let never = task.accepted_at.is_none() && task.ended_at.is_some();
    if !never {
        steps.push(step("Accepted", "the video service has the task".into(), at(task.accepted_at)));
    }
    if task.polls > 0 {
        steps.push(step(
            "Followed",
            format!("its state was asked for {} times", task.polls),
            at(task.accepted_at),
        ));
    }
    let end = match task.state.as_str() {
        "SETTLED" if task.consumed_credits < task.held_credits => {
            "charged, and the rest of the hold returned"
        }
        "SETTLED" => "charged",
        "WRITTEN_OFF" => "the outcome stayed unknown: the hold was returned",
        "RELEASED" => "the hold was returned",
        _ => "not yet",
    };
    steps.push(step("Ended", end.into(), at(task.ended_at)));
    steps
}

/// The longest text of a request that is shown or filled in again; files are longer.
const LONGEST: usize = 2_000;

/// The fields of the request that the vendor repeats, but its type and prompt, which the page has at other places.
fn asked(status: &Status) -> Vec<(String, String)> {
    let fields = status.request.as_object().into_iter().flatten();
    let others = fields.filter(|(name, _)| !["type", "prompt"].contains(&name.as_str()));
    let shown = others.filter_map(|(name, value)| {
        let value = text(value)?;
        let short: String = value.chars().take(100).collect();
        Some((name.clone(), if short.len() < value.len() { format!("{short}…") } else { short }))
    });
    shown.take(20).collect()
}

/// The query with which the playground is filled in as this task was asked for.
fn again(task: &TaskDetail, status: &Status) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("type", &task.task_type);
    // Ticked boxes are told from those of an empty form by this.
    query.append_pair("filled", "yes");
    for (name, value) in status.request.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("type" | "metadata", _) => {}
            ("sound" | "keep_original_sound", Value::Bool(true)) => {
                query.append_pair(name, "yes");
            }
            ("images", Value::Array(images)) => {
                let lines: Vec<&str> = images.iter().filter_map(Value::as_str).collect();
                let lines = lines.join("\n");
                if lines.len() <= LONGEST {
                    query.append_pair(name, &lines);
                }
            }
            (_, Value::String(text)) if text.chars().count() <= LONGEST => {
                query.append_pair(name, text);
            }
            (_, Value::Number(number)) => {
                query.append_pair(name, &number.to_string());
            }
            _ => {}
        }
    }
    // Left out it means yes.
    for name in ["sound", "keep_original_sound"] {
        if status.request[name].is_null() {
            query.append_pair(name, "yes");
        }
    }
    let labels: Vec<String> = task.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !labels.is_empty() {
        query.append_pair("labels", &labels.join(", "));
    }
    query.finish()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Whether the content policy lets the browser play a video from this origin.
fn plays_here(visit: &Visit, url: &Url) -> bool {
    let hosts = &visit.console.parts.settings.media_hosts;
    let origin = url.origin().ascii_serialization();
    hosts.iter().any(|host| *host == origin || (host == "https:" && url.scheme() == "https"))
}

/// What is where the video of a finished clip would be.
pub(in crate::console) fn video_of(visit: &Visit, reference: &str, status: &Status) -> Screen {
    match link(&status.response, 0).and_then(web) {
        Some(url) => Screen::Video(Video {
            link: visit.link(&format!("/clips/{reference}/video")),
            host: url.host_str().unwrap_or_default().to_owned(),
            plays_here: plays_here(visit, &url),
            own: url.into(),
        }),
        None => text(&status.response).map_or(Screen::Gone, Screen::Other),
    }
}

fn screen(visit: &Visit, task: &TaskDetail, status: &Status) -> Screen {
    match task.status.as_str() {
        "SUCCESS" => video_of(visit, &task.reference, status),
        "FAILED" => Screen::Failed(
            text(&status.error_message).unwrap_or_else(|| "The video service gave no reason.".to_owned()),
        ),
        _ if task.state == "IN_DOUBT" => Screen::Doubt,
        _ => Screen::Running,
    }
}

pub(in crate::console) async fn clip(visit: Visit) -> Outcome {
    let id = visit.param("task");
    let (place, status) = (format!("/api/tasks/{id}"), format!("/api/status?task_id={id}"));
    let ((member, shell), task, status) = tokio::try_join!(
        visit.member("Clip"),
        visit.client.read::<TaskDetail>(&place),
        visit.client.read::<Status>(&status),
    )?;
    let Member { me, zone, .. } = &member;
    // What is in doubt may stay so for a day: nobody waits for it in front of a page.
    let is_live = ["HELD", "RUNNING"].contains(&task.state.as_str()) && task.status == "IN_PROGRESS";
    let page = ClipPage {
        shell: shell.refreshed(&visit, is_live.then_some(4)),
        badge: Badge::of_task(&task.state, &task.status),
        task_type: task.task_type.clone(),
        task: task.reference.clone(),
        task_id: Id(task.task_id.clone()),
        reference: Id(task.reference.clone()),
        user: Name(task.user_name.clone()),
        key: task.key_name.clone().map(Name),
        labels: Labels::new(visit.base(), &task.labels),
        prompt: status.prompt(),
        asked: asked(&status),
        again: again(&task, &status),
        screen: screen(&visit, &task, &status),
        is_live,
        life: life(&task, zone),
        cost: Cost::of(&task),
        may_erase: task.keeps_content && (me.is_admin() || me.user.user_id == task.user_id),
    };
    Ok(html(&page))
}

/// Sends the browser to the video. The page asks for it only when somebody plays it, so no list has to know its links.
pub(in crate::console) async fn video(visit: Visit) -> Result<Response, Trouble> {
    let id = visit.param("task");
    let status: Status = visit.client.read(&format!("/api/status?task_id={id}")).await?;
    match link(&status.response, 0).and_then(web) {
        Some(url) => Ok(redirect(url.as_str())),
        None => Err(Trouble::not_found("This clip has no video, or its content was deleted.")),
    }
}

/// Deletes what is stored of a clip.
pub(in crate::console) async fn erase(visit: Visit) -> Outcome {
    let id = visit.param("task");
    visit.client.data(Method::DELETE, &format!("/api/tasks/{id}/content")).send().await?;
    Ok(redirect(&visit.link(&format!("/clips/{id}?done=erased"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_link_of_an_answer_is_found_and_nothing_else_is_followed() {
        let found = |value: Value| link(&value, 0).map(ToOwned::to_owned);
        assert_eq!(found(json!(["https://cdn.example/a.mp4"])), Some("https://cdn.example/a.mp4".into()));
        assert_eq!(
            found(json!({"videos": [{"url": "https://cdn.example/b"}]})),
            Some("https://cdn.example/b".into())
        );
        for bad in [
            json!("javascript:alert(1)"),
            json!(["data:text/html,x"]),
            json!(null),
            json!("file:///x"),
            json!(7),
        ] {
            assert_eq!(found(bad.clone()), None, "{bad}");
        }
    }
}
