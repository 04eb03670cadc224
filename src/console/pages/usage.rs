//! Usage of an organisation: a chart drawn here, and the figures that it shows as a table.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use askama::filters::HtmlSafe;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde::Deserialize;
use time::Duration;
use time::macros::format_description;

use crate::clock::Clock;
use crate::console::answers::{Me, Page, Tasks};
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices, months};
use crate::console::shell::Shell;
use crate::console::view::{Alert, Labels, Money, Number, grouped};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

#[derive(askama::Template)]
#[template(path = "usage.html")]
struct UsagePage {
    shell: Shell,
    groups: Vec<Choice>,
    group_name: &'static str,
    from: String,
    to: String,
    months: Vec<Choice>,
    label: String,
    /// Names of labels that were used of late, to choose from.
    labels: BTreeSet<String>,
    /// Usage by a label is asked for, and nobody said by which.
    lacks_label: bool,
    lines: Vec<UsageLine>,
    chart: Option<Chart>,
    total: Money,
    tasks: Number,
    /// The time zone by whose clock days begin.
    zone: String,
    /// Only the groups that consumed most are shown, and a line for all others.
    is_top: bool,
    /// The visitor is a member, who sees what is its own.
    is_own: bool,
    alert: Option<Alert>,
    csv: String,
    next: Option<String>,
}

struct UsageLine {
    name: String,
    /// Of usage by a label: leads to the clips with it.
    label: Option<Labels>,
    tasks: Number,
    charged: Number,
    corrected: Number,
    consumed: Number,
}

#[derive(Debug, Deserialize)]
struct Usage {
    day: Option<String>,
    #[serde(default)]
    team_id: Option<String>,
    user_id: Option<String>,
    #[serde(default)]
    key_id: Option<String>,
    task_type: Option<String>,
    label: Option<String>,
    name: Option<String>,
    #[serde(default)]
    others: bool,
    tasks: i64,
    charged: i64,
    corrected: i64,
    consumed: i64,
}

/// What can be grouped by: the API's word, and the head of the column. Members, who see what is their own, have those of
/// [`FOR_MEMBERS`].
const GROUPS: [(&str, &str); 6] = [
    ("day", "Day"),
    ("key", "Key"),
    ("task_type", "Type"),
    ("label", "Label"),
    ("user", "User"),
    ("team", "Team"),
];
const FOR_MEMBERS: usize = 4;

/// The bars of a chart: a name and a value each.
pub(in crate::console) struct Chart(pub(in crate::console) Vec<(String, i64)>);

/// The most bars of a chart; more would be lines.
const BARS: usize = 62;

const WIDTH: i64 = 900;
const HEIGHT: i64 = 220;
const LEFT: i64 = 64;
const BOTTOM: i64 = 24;

/// The next number with one leading digit, so that the axis ends at a round one.
fn round_up(most: i64) -> i64 {
    let mut unit = 1_i64;
    while unit.saturating_mul(10) <= most {
        unit = unit.saturating_mul(10);
    }
    let steps = most.checked_add(unit - 1).and_then(|sum| sum.checked_div(unit)).unwrap_or(1);
    steps.max(1).saturating_mul(unit)
}

impl Display for Chart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let most = round_up(self.0.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1));
        let count = i64::try_from(self.0.len()).unwrap_or(1).max(1);
        let (room, tall) = (WIDTH - LEFT, HEIGHT - BOTTOM - 10);
        let step = room * 100 / count;
        write!(
            f,
            r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Credits, as in the table below">"#
        )?;
        for part in 0..=2 {
            let (y, value) = (10 + tall - tall * part / 2, most / 2 * part);
            let class = if part == 0 { "axis" } else { "grid" };
            let value = if part == 2 { most } else { value };
            write!(f, r#"<line class="{class}" x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>"#)?;
            write!(f, r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#, LEFT - 8, y + 4, grouped(value))?;
        }
        let every = (count / 8).max(1);
        for (at, (name, value)) in (0_i64..).zip(&self.0) {
            let height = i128::from((*value).max(0)) * i128::from(tall) / i128::from(most);
            let height = i64::try_from(height).unwrap_or(0).max(i64::from(*value > 0));
            let x = LEFT + at * step / 100;
            let (width, y) = ((step * 7 / 1_000).clamp(2, 48), 10 + tall - height);
            let x = x + (step / 100 - width) / 2;
            let label = crate::console::view::escaped(name);
            write!(
                f,
                r#"<rect class="bar" x="{x}" y="{y}" width="{width}" height="{height}" rx="2"><title>{label}: {}</title></rect>"#,
                grouped(*value)
            )?;
            if at % every == 0 {
                let short: String = name
                    .chars()
                    .skip(if name.len() == 10 && name.as_bytes().get(4) == Some(&b'-') { 5 } else { 0 })
                    .take(12)
                    .collect();
                write!(
                    f,
                    r#"<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
                    x + width / 2,
                    HEIGHT - 6,
                    crate::console::view::escaped(&short)
                )?;
            }
        }
        f.write_str("</svg>")
    }
}

impl HtmlSafe for Chart {}

struct AskedUsage {
    /// Days are those of the organisation's time zone.
    is_local: bool,
    /// The name of the label to group by.
    label: String,
    group: &'static str,
    group_name: &'static str,
    from: String,
    to: String,
}

/// What the caller can group by.
fn groups_of(me: &Me) -> &'static [(&'static str, &'static str)] {
    if me.is_admin() { &GROUPS } else { &GROUPS[..FOR_MEMBERS] }
}

impl AskedUsage {
    fn of(fields: &Fields, me: &Me, zone: &Zone) -> Self {
        let group = fields.get("by").unwrap_or("day");
        let known = groups_of(me).iter().copied().find(|(word, _)| *word == group);
        let (group, group_name) = known.unwrap_or(("day", "Day"));
        let day = format_description!("[year]-[month]-[day]");
        // Of one user, and of other groups, there are sums by UTC days alone.
        let is_local = group == "day" && me.is_admin();
        let today = if is_local { zone.date(Clock.wall()) } else { Clock.wall().date() };
        // Usage by a label is summed up from single entries while one waits.
        let back = match group {
            "label" => 6,
            // Of users and keys, of which there may be any number, whole months are summed up.
            "user" | "key" => i64::from(today.day()) - 1,
            _ => 29,
        };
        let text = |date: time::Date| date.format(&day).unwrap_or_default();
        // A month has all of its days, whatever else is filled in.
        let month = fields.get("month").and_then(|month| {
            let first = time::Date::parse(&format!("{month}-01"), day).ok()?;
            Some((first, first.replace_day(first.month().length(first.year())).ok()?))
        });
        if let Some((first, last)) = month {
            let label = fields.get("label").unwrap_or_default().trim().to_owned();
            return Self { is_local, group, group_name, label, from: text(first), to: text(last) };
        }
        Self {
            is_local,
            group,
            group_name,
            label: fields.get("label").unwrap_or_default().trim().to_owned(),
            from: fields
                .get("from")
                .map_or_else(|| text(today.saturating_sub(Duration::days(back))), ToOwned::to_owned),
            to: fields.get("to").map_or_else(|| text(today), ToOwned::to_owned),
        }
    }

    fn place(&self, org: &str) -> String {
        let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let (from, to) = (encoded(&self.from), encoded(&self.to));
        let label =
            if self.is_by_label() { format!("&label={}", encoded(&self.label)) } else { String::new() };
        let clock = if self.is_local { "&clock=org" } else { "" };
        format!("/admin/v1/orgs/{org}/usage?group_by={}&from={from}&to={to}{label}{clock}", self.group)
    }

    /// Whether only the groups that consumed most are shown: there may be any number.
    fn is_top(&self) -> bool {
        matches!(self.group, "user" | "key" | "team")
    }

    fn is_by_label(&self) -> bool {
        self.group == "label"
    }

    /// Whether it is not said by which label.
    fn lacks_label(&self) -> bool {
        self.is_by_label() && self.label.is_empty()
    }
}

/// What a line is of.
fn name(usage: &Usage, group: &str) -> String {
    let known = |id: &Option<String>, none: &str| {
        usage.name.clone().or_else(|| id.clone()).unwrap_or_else(|| none.to_owned())
    };
    match group {
        _ if usage.others => "all others".to_owned(),
        "day" => usage.day.clone().unwrap_or_default(),
        "task_type" => usage.task_type.clone().unwrap_or_default(),
        "key" => known(&usage.key_id, "without a key"),
        "label" => usage.label.clone().unwrap_or_else(|| "without the label".to_owned()),
        "team" => known(&usage.team_id, "without a team"),
        _ => known(&usage.user_id, ""),
    }
}

/// The names of the labels of the last tasks.
async fn labels_of_late(visit: &Visit) -> Result<BTreeSet<String>, Problem> {
    let found: Tasks = visit.client.read("/api/tasks?limit=100").await?;
    Ok(found.tasks.into_iter().flat_map(|task| task.labels.into_keys()).collect())
}

fn nothing() -> Page<Usage> {
    Page { items: Vec::new(), next_cursor: None }
}

/// The sums of a group each; none, and why, if what is asked for is wrong or too much.
async fn sums(
    visit: &Visit,
    asked: &AskedUsage,
    place: &str,
) -> Result<(Page<Usage>, Option<Alert>), Problem> {
    let cursor = visit.query().get("cursor").map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let found = match asked.is_top() {
        true => visit.client.look::<Page<Usage>>(&format!("{place}&top=100")).await,
        false => visit.client.look::<Page<Usage>>(&format!("{place}&limit=100{cursor}")).await,
    };
    match found {
        Ok(found) => Ok((found, None)),
        Err(problem) if problem.status == http::StatusCode::BAD_REQUEST => {
            Ok((nothing(), Some(Alert::of(&problem))))
        }
        // What is summed up while one waits may be too much.
        Err(problem) if problem.is_passing() && (asked.is_by_label() || asked.is_top()) => {
            let message = match asked.is_by_label() {
                true => "this could not be summed up in time: choose fewer days",
                false => "this could not be summed up in time: choose a whole month",
            };
            Ok((nothing(), Some(Alert::of(&Problem { message: message.into(), ..problem }))))
        }
        Err(problem) => Err(problem),
    }
}

impl Usage {
    fn line(&self, asked: &AskedUsage, base: &str) -> UsageLine {
        // A label leads to the clips that have it.
        let value = self.label.clone().filter(|_| asked.is_by_label());
        UsageLine {
            name: name(self, asked.group),
            label: value.map(|value| Labels::new(base, &[(asked.label.clone(), value)].into())),
            tasks: Number(self.tasks),
            charged: Number(self.charged),
            corrected: Number(self.corrected),
            consumed: Number(self.consumed),
        }
    }
}

pub(in crate::console) async fn usage(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("Usage").await?;
    let org = &member.me.organisation.org_id;
    let query = visit.query();
    let asked = AskedUsage::of(query, &member.me, &member.zone);
    let place = asked.place(org);
    let labels = if asked.is_by_label() { labels_of_late(&visit).await? } else { BTreeSet::new() };
    let (found, alert) = match asked.lacks_label() {
        true => (nothing(), None),
        false => sums(&visit, &asked, &place).await?,
    };
    let bars = found.items.iter().filter(|usage| !usage.others);
    let bars = bars.map(|usage| (name(usage, asked.group), usage.consumed));
    let bars: Vec<_> = bars.take(BARS).collect();
    let sum = |of: fn(&Usage) -> i64| found.items.iter().map(of).fold(0, i64::saturating_add);
    let filters = query.query_without(&["cursor"]);
    let months = months(&member.zone.month(Clock.wall()));
    let months = months.iter().map(|month| (month.as_str(), month.as_str()));
    let page = UsagePage {
        shell,
        months: choices([("", "by days")].into_iter().chain(months), &query.text("month")),
        groups: choices(groups_of(&member.me).iter().copied(), asked.group),
        total: Money(sum(|usage| usage.consumed)),
        tasks: Number(sum(|usage| usage.tasks)),
        zone: if asked.is_local { member.zone.name().to_owned() } else { String::new() },
        is_top: asked.is_top(),
        is_own: !member.me.is_admin(),
        lines: found.items.iter().map(|usage| usage.line(&asked, visit.base())).collect(),
        chart: (!bars.is_empty()).then_some(Chart(bars)),
        alert,
        csv: format!("{}?{filters}", visit.link("/usage.csv")),
        next: found.next_cursor.map(|cursor| format!("{}?{filters}&cursor={cursor}", visit.link("/usage"))),
        labels,
        lacks_label: asked.lacks_label(),
        label: asked.label,
        group_name: asked.group_name,
        from: asked.from,
        to: asked.to,
    };
    Ok(html(&page))
}

/// The same figures as CSV.
pub(in crate::console) async fn csv(visit: Visit) -> Outcome {
    let (member, _) = visit.member("Usage").await?;
    let asked = AskedUsage::of(visit.query(), &member.me, &member.zone);
    let place = format!("{}&format=csv", asked.place(&member.me.organisation.org_id));
    download(&visit, &place).await
}

/// A table of the management API, as it is: it is made while the browser reads it.
pub(in crate::console) async fn download(visit: &Visit, place: &str) -> Outcome {
    let table = visit.client.manage(Method::GET, place).unread().await?;
    let mut answer: Response = table.body.into_response();
    for name in [CONTENT_TYPE, CONTENT_DISPOSITION] {
        if let Some(value) = table.headers.get_all(&name).iter().next() {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        assert_eq!(
            [1, 7, 10, 11, 399, 400, 401, 99_999].map(round_up),
            [1, 7, 10, 20, 400, 400, 500, 100_000]
        );
    }

    #[test]
    fn a_chart_escapes_names_and_shows_every_value() {
        let chart =
            Chart(vec![("<b>".into(), 5), ("2026-11-30".into(), 0), ("c".into(), i64::MAX / 2)]).to_string();
        assert!(
            !chart.contains("<b>") && chart.contains("11-30") && chart.matches("<rect").count() == 3,
            "{chart}"
        );
    }
}
