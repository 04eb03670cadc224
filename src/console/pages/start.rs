//! The first page: what there is to spend, what it is limited by, and what was made last. Before the first success: how to begin.

use serde::Deserialize;
use time::OffsetDateTime;

use crate::console::answers::{MyBudget, Status, TaskRow, Tasks};
use crate::console::frame::html;
use crate::console::pages::clip::{Screen, video_of};
use crate::console::shell::Shell;
use crate::console::view::{Badge, Id, Labels, Meter, Money, Name, When};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

/// How many clips are shown.
const SHOWN: usize = 6;

#[derive(askama::Template)]
#[template(path = "start.html")]
struct StartPage {
    shell: Shell,
    available: Money,
    held: Money,
    consumed: Money,
    open_tasks: i32,
    in_doubt: i32,
    /// How long the balance lasts; admins only, who can do something about it.
    lasts: Option<Lasts>,
    budgets: Vec<BudgetLine>,
    clips: Vec<ClipLine>,
    /// The newest clip that has a video.
    newest: Option<Newest>,
    /// Whether a task is under way.
    is_live: bool,
    /// How to begin; nothing once something has succeeded.
    guide: Option<Guide>,
}

/// How long the balance lasts at the present pace.
struct Lasts {
    until: Option<When>,
    per_day: Money,
}

#[derive(Debug, Deserialize)]
struct Summary {
    runway: Runway,
}

#[derive(Debug, Deserialize)]
struct Runway {
    per_day: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
}

/// What a wish for more of a budget is made of.
pub(in crate::console) struct Ask {
    pub(in crate::console) level: String,
    pub(in crate::console) period: String,
    /// A limit to begin with: half as much again.
    pub(in crate::console) credits: i64,
    /// A link by which an admin raises it; a budget of the whole organisation has none.
    pub(in crate::console) link: Option<String>,
}

/// A budget, with the nearest to its limit first.
pub(in crate::console) struct BudgetLine {
    pub(in crate::console) whose: &'static str,
    pub(in crate::console) period: &'static str,
    pub(in crate::console) used: Money,
    pub(in crate::console) limit: Option<Money>,
    pub(in crate::console) left: Option<Money>,
    pub(in crate::console) meter: Option<Meter>,
    pub(in crate::console) resets: Option<When>,
    /// How to ask for more; the page of budgets has it.
    pub(in crate::console) ask: Option<Ask>,
    share: i64,
}

impl BudgetLine {
    pub(in crate::console) fn new(budget: &MyBudget, zone: &Zone) -> Self {
        let spent = budget.used.saturating_add(budget.held);
        let share =
            budget.limit.map_or(-1, |limit| spent.saturating_mul(1_000).checked_div(limit).unwrap_or(1_000));
        Self {
            whose: whose(&budget.level),
            period: period(&budget.period),
            used: Money(spent),
            limit: budget.limit.map(Money),
            left: budget.limit.map(|limit| Money(limit.saturating_sub(spent).max(0))),
            meter: budget.limit.map(|limit| Meter { used: spent, limit }),
            resets: When::maybe(zone, budget.resets_at),
            ask: None,
            share,
        }
    }

    fn sorted(mut lines: Vec<Self>) -> Vec<Self> {
        lines.sort_by_key(|line| std::cmp::Reverse(line.share));
        lines
    }

    /// All of them, the nearest to its limit first.
    pub(in crate::console) fn all(budgets: &[MyBudget], zone: &Zone) -> Vec<Self> {
        Self::sorted(budgets.iter().map(|budget| Self::new(budget, zone)).collect())
    }

    /// All of them, each with what `ask` makes for it.
    pub(in crate::console) fn all_asking(
        budgets: &[MyBudget],
        zone: &Zone,
        ask: impl Fn(&MyBudget) -> Option<Ask>,
    ) -> Vec<Self> {
        let line = |budget| Self { ask: ask(budget), ..Self::new(budget, zone) };
        Self::sorted(budgets.iter().map(line).collect())
    }
}

/// Whose spending a budget limits, for its reader.
fn whose(level: &str) -> &'static str {
    match level {
        "key" => "This key",
        "user" => "You",
        "team" => "Your team",
        _ => "The organisation",
    }
}

/// The windows of a budget.
pub(in crate::console) fn period(period: &str) -> &'static str {
    match period {
        "daily" => "a day",
        "weekly" => "a week",
        "monthly" => "a month",
        _ => "in total",
    }
}

/// A task in a list.
pub(in crate::console) struct ClipLine {
    pub(in crate::console) task_id: String,
    pub(in crate::console) id: Id,
    pub(in crate::console) badge: Badge,
    pub(in crate::console) task_type: String,
    pub(in crate::console) prompt: Option<Name>,
    /// The length in seconds, where the vendor has repeated what was asked for.
    pub(in crate::console) length: Option<i64>,
    pub(in crate::console) cost: Money,
    pub(in crate::console) user: Option<Name>,
    pub(in crate::console) created: When,
    pub(in crate::console) labels: Labels,
    pub(in crate::console) has_video: bool,
}

impl ClipLine {
    pub(in crate::console) fn new(task: &TaskRow, base: &str, zone: &Zone) -> Self {
        Self {
            task_id: task.reference.clone(),
            id: Id(task.task_id.clone()),
            badge: Badge::of_task(&task.state, &task.status),
            task_type: task.task_type.clone(),
            prompt: task.prompt.clone().map(Name),
            length: task.duration,
            cost: Money(task.consumed_credits),
            user: None,
            created: When::new(zone, task.created_at),
            labels: Labels::new(base, &task.labels),
            has_video: task.status == "SUCCESS",
        }
    }

    /// Whether a table of these needs a column for labels.
    pub(in crate::console) fn any_has_labels(lines: &[Self]) -> bool {
        lines.iter().any(|line| !line.labels.is_empty())
    }
}

/// The newest finished clip, to be played at once.
struct Newest {
    line: ClipLine,
    screen: Screen,
    prompt: Option<String>,
}

impl Newest {
    async fn of(visit: &Visit, tasks: &[TaskRow], zone: &Zone) -> Option<Self> {
        let task = tasks.iter().find(|task| task.status == "SUCCESS")?;
        // The page is of use without it.
        let status: Status = visit
            .client
            .read(&format!("/api/status?task_id={}", visit.escaped(&task.reference)))
            .await
            .ok()?;
        let screen = video_of(visit, &task.reference, &status);
        Some(Self { line: ClipLine::new(task, visit.base(), zone), screen, prompt: status.prompt() })
    }
}

/// How to make the first call, in three languages.
struct Guide {
    base_url: String,
    /// What became of the last call, if there was one that failed.
    failed: Option<ClipLine>,
    /// The last call that was refused, and so is no task.
    refused: Option<RefusedLine>,
    /// Whether a call is under way.
    waiting: bool,
}

/// A call that was refused.
struct RefusedLine {
    /// The status, and the code of the error.
    what: String,
    message: String,
    at: When,
}

pub(in crate::console) async fn start(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("Start").await?;
    let list: Tasks = visit.client.read(&format!("/api/tasks?limit={SHOWN}")).await?;
    let zone = &member.zone;
    let lasts = if member.me.is_admin() {
        let place = format!("/admin/v1/orgs/{}/credits", member.me.organisation.org_id);
        let Summary { runway } = visit.client.look(&place).await?;
        Some(Lasts { until: When::maybe(zone, runway.until), per_day: Money(runway.per_day) })
    } else {
        None
    };
    let any_success = list.tasks.iter().any(|task| task.status == "SUCCESS") || member.balance.consumed > 0;
    let waiting = list.tasks.iter().any(TaskRow::is_running);
    let guide = (!any_success).then(|| Guide {
        base_url: visit.public_url(),
        failed: list
            .tasks
            .first()
            .filter(|task| task.status == "FAILED")
            .map(|task| ClipLine::new(task, visit.base(), zone)),
        // Older than the last task it says nothing about it.
        refused: member
            .me
            .last_refusal
            .as_ref()
            .filter(|refused| list.tasks.first().is_none_or(|task| task.created_at < refused.at))
            .map(|refused| RefusedLine {
                what: [refused.status.to_string(), refused.code.clone().unwrap_or_default()].join(" "),
                message: refused.message.clone(),
                at: When::new(zone, refused.at),
            }),
        waiting,
    });
    let newest = Newest::of(&visit, &list.tasks, zone).await;
    let page = StartPage {
        newest,
        available: Money(member.balance.available),
        held: Money(member.balance.held),
        consumed: Money(member.balance.consumed),
        open_tasks: member.balance.open_tasks,
        in_doubt: member.balance.in_doubt,
        lasts,
        is_live: waiting,
        budgets: BudgetLine::all(&member.me.budgets, zone),
        clips: list.tasks.iter().map(|task| ClipLine::new(task, visit.base(), zone)).collect(),
        shell: shell.refreshed(&visit, (guide.is_some() || waiting).then_some(5)),
        guide,
    };
    Ok(html(&page))
}
