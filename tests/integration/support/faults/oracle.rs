//! The judge, who stands outside: customers' answers, the vendor's books and the ledger's rows must tell one story.
//!
//! Every create has a prompt, and so a body, of its own. The vendor's books tell a task's prompt, the ledger keeps the
//! body's fingerprint: each create is tied to its tasks and to its holds without asking a gateway.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgPool, Row};
use tollgate::ids::HoldId;
use tollgate::store::Fingerprint;
use uuid::Uuid;

use super::load::{Create, Reply, Tenant};
use super::vendor::VendorTask;

/// A row of the table of holds, with what was booked for it.
#[derive(Debug, Clone)]
pub struct Hold {
    org_id: Uuid,
    hold_id: Uuid,
    pub state: String,
    fingerprint: Vec<u8>,
    pub upstream_task: Option<String>,
    raw_consumed: Option<i64>,
    charged: Option<i64>,
    /// How many consume entries, and of how many credits.
    pub consumes: i64,
    entered: i64,
    /// What the upstream took and no tenant pays, by its own words.
    loss: i64,
    /// What it may have taken.
    possible_loss: i64,
}

impl FromRow<'_, PgRow> for Hold {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            org_id: row.try_get("org_id")?,
            hold_id: row.try_get("hold_id")?,
            state: row.try_get("state")?,
            fingerprint: row.try_get("fingerprint")?,
            upstream_task: row.try_get("upstream_task")?,
            raw_consumed: row.try_get("raw_consumed")?,
            charged: row.try_get("charged")?,
            consumes: row.try_get("consumes")?,
            entered: row.try_get("entered")?,
            loss: row.try_get("loss")?,
            possible_loss: row.try_get("possible_loss")?,
        })
    }
}

impl Hold {
    /// Its id.
    pub fn id(&self) -> HoldId {
        HoldId::from_uuid(self.hold_id)
    }

    /// Those that gateways made: a history that a test has written has no fingerprints.
    pub async fn all(pool: &PgPool) -> Vec<Self> {
        sqlx::query_as(
            // entries are added up at once: they have no index by hold
            "select h.*, coalesce(e.consumes, 0) as consumes, coalesce(e.entered, 0) as entered, l.loss, l.possible_loss \
             from task h left join (select org_id, hold_id, count(*) as consumes, (-sum(amount))::bigint as entered \
             from entry where kind = 'consume' group by org_id, hold_id) e \
             on e.org_id = h.org_id and e.hold_id = h.hold_id \
             cross join lateral (select coalesce(sum(amount) filter (where not possible), 0)::bigint as loss, \
             coalesce(sum(amount) filter (where possible), 0)::bigint as possible_loss \
             from platform_loss where org_id = h.org_id and hold_id = h.hold_id) l \
             where h.fingerprint <> '' order by h.hold_id",
        )
        .fetch_all(pool)
        .await
        .unwrap()
    }

    /// Our reference.
    pub fn reference(&self) -> String {
        HoldId::from_uuid(self.hold_id).to_string()
    }

    /// Whether it is of this create.
    pub fn is_of(&self, create: &Create) -> bool {
        self.fingerprint == Fingerprint::of(create.body.as_bytes()).as_bytes()
    }

    pub fn is_unfinished(&self) -> bool {
        matches!(self.state.as_str(), "HELD" | "RUNNING")
    }

    /// Whether it names what a task that nobody told us of may have cost.
    fn covers_an_unknown_task(&self) -> bool {
        self.upstream_task.is_none() && (self.state == "IN_DOUBT" || self.possible_loss > 0)
    }
}

/// What came of a fault.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub creates: usize,
    /// Credits the vendor took that nobody here is charged for, holds, or has booked.
    pub lost: i64,
    /// Credits charged without a task, or for one task twice, or taken by a second task for one create.
    pub doubled: i64,
    /// Holds still HELD or RUNNING.
    pub open: usize,
    pub in_doubt: usize,
    /// From the last fault until the last hold had ended.
    pub ended: Option<Duration>,
    /// Each thing that is not as it must be.
    pub findings: Vec<String>,
}

impl Verdict {
    #[track_caller]
    pub fn must_be_clean(&self) {
        let clean = self.findings.is_empty() && self.lost == 0 && self.doubled == 0 && self.open == 0;
        assert!(clean, "{} findings: {:#?}", self.findings.len(), self);
    }
}

/// The three accounts.
pub struct Evidence<'a> {
    pub tenants: &'a [Tenant],
    pub creates: &'a [Create],
    pub tasks: &'a [VendorTask],
    pub holds: &'a [Hold],
}

#[derive(Default)]
struct Sums {
    vendor: i64,
    /// What the vendor took for tasks whose hold is in doubt, written off, or a possible loss.
    doubtful: i64,
}

impl Evidence<'_> {
    pub fn judge(&self) -> Verdict {
        let mut verdict = Verdict {
            creates: self.creates.len(),
            open: self.holds.iter().filter(|hold| hold.is_unfinished()).count(),
            in_doubt: self.holds.iter().filter(|hold| hold.state == "IN_DOUBT").count(),
            ..Verdict::default()
        };
        let mut sums = Sums::default();
        let mut tasks: HashMap<&str, Vec<&VendorTask>> = HashMap::new();
        for task in self.tasks {
            sums.vendor += task.consumed_credits;
            tasks.entry(&task.prompt).or_default().push(task);
        }
        let mut holds: HashMap<&[u8], Vec<&Hold>> = HashMap::new();
        for hold in self.holds {
            holds.entry(&hold.fingerprint).or_default().push(hold);
        }
        for create in self.creates {
            let fingerprint = Fingerprint::of(create.body.as_bytes());
            let its_tasks = tasks.remove(create.prompt.as_str()).unwrap_or_default();
            let its_holds = holds.remove(fingerprint.as_bytes()).unwrap_or_default();
            self.judge_create(create, &its_tasks, &its_holds, &mut sums, &mut verdict);
        }
        for task in tasks.into_values().flatten() {
            verdict.lost += task.consumed_credits;
            verdict.findings.push(format!("nobody created {task:?}"));
        }
        for hold in holds.into_values().flatten() {
            verdict.findings.push(format!("nobody created {hold:?}"));
        }
        let settled: i64 = self.holds.iter().filter_map(|hold| hold.charged.and(hold.raw_consumed)).sum();
        let loss: i64 = self.holds.iter().map(|hold| hold.loss).sum();
        if sums.vendor != settled + loss + sums.doubtful {
            let Sums { vendor, doubtful } = sums;
            verdict.findings.push(format!(
                "the vendor took {vendor}; settled are {settled}, the platform's loss {loss}, in doubt {doubtful}"
            ));
        }
        verdict
    }

    fn judge_create(
        &self,
        create: &Create,
        tasks: &[&VendorTask],
        holds: &[&Hold],
        sums: &mut Sums,
        verdict: &mut Verdict,
    ) {
        let mut wrong = Vec::new();
        let owner = self.tenants[create.tenant].org.as_uuid();
        if holds.iter().any(|hold| hold.org_id != owner) {
            wrong.push("a hold is another organisation's".to_owned());
        }
        if let [_, more @ ..] = tasks
            && !more.is_empty()
        {
            verdict.doubled += more.iter().map(|task| task.consumed_credits).sum::<i64>();
            wrong.push(format!("{} tasks at the vendor for one create", tasks.len()));
        }
        for task in tasks {
            let known = holds.iter().find(|hold| hold.upstream_task.as_deref() == Some(&task.task_id));
            let named = known.or_else(|| holds.iter().find(|hold| hold.covers_an_unknown_task()));
            let Some(hold) = named else {
                verdict.lost += task.consumed_credits;
                wrong.push("the vendor has a task that no hold stands for".to_owned());
                continue;
            };
            let booked = match hold.state.as_str() {
                "SETTLED" => hold.raw_consumed.unwrap_or_default(),
                "RELEASED" if hold.possible_loss == 0 => hold.loss,
                _ => {
                    sums.doubtful += task.consumed_credits;
                    task.consumed_credits
                }
            };
            if booked != task.consumed_credits {
                wrong.push(format!("booked are {booked} credits"));
            }
        }
        for hold in holds {
            let task = hold.upstream_task.as_deref();
            if task.is_some() && !tasks.iter().any(|known| Some(known.task_id.as_str()) == task) {
                verdict.doubled += hold.charged.unwrap_or_default();
                wrong.push("a hold's task is not this create's".to_owned());
            }
            let charged = hold.charged.unwrap_or_default();
            if hold.consumes != i64::from(hold.state == "SETTLED") || hold.entered != charged {
                verdict.doubled += (hold.entered - charged).max(0);
                wrong.push(format!("{} consume entries", hold.consumes));
            }
        }
        // A gateway that is killed before it sends leaves a doubt, and knew only later than others that it had nothing to send.
        let bought = holds.iter().find(|hold| hold.upstream_task.is_some());
        let has_nothing_to_send = |hold: &Hold| {
            hold.state == "IN_DOUBT"
                && hold.upstream_task.is_none()
                && bought.is_some_and(|bought| bought.hold_id < hold.hold_id)
        };
        let counts =
            |hold: &Hold| (hold.state != "RELEASED" && !has_nothing_to_send(hold)) || hold.consumes > 0;
        if holds.iter().filter(|hold| counts(hold)).count() > 1 {
            wrong.push("two holds for one create".to_owned());
        }
        self.judge_answers(create, tasks, holds, &mut wrong);
        if !wrong.is_empty() {
            let what = wrong.join("; ");
            verdict.findings.push(format!("{what}: {create:?} {tasks:?} {holds:?}"));
        }
    }

    fn judge_answers(
        &self,
        create: &Create,
        tasks: &[&VendorTask],
        holds: &[&Hold],
        wrong: &mut Vec<String>,
    ) {
        let mut accepted = HashSet::new();
        for attempt in &create.attempts {
            match &attempt.reply {
                Reply::Accepted(id) => {
                    accepted.insert(id);
                    if !holds.iter().any(|hold| hold.upstream_task.as_ref() == Some(id)) {
                        wrong.push(format!("lost: {id} was acknowledged, no hold has it"));
                    }
                }
                Reply::Unknown(reference) => {
                    if !holds.iter().any(|hold| hold.reference() == *reference) {
                        wrong.push(format!("lost: the customer was told of {reference}, which is not there"));
                    }
                }
                Reply::Refused { code, .. } if code == "unreadable" => {
                    wrong.push("an unreadable answer".into())
                }
                Reply::Refused { .. } | Reply::NoAnswer => {}
            }
        }
        if accepted.len() > 1 {
            wrong.push(format!("the customer was given {accepted:?} for one create"));
        }
        let refused = |reply: &Reply| matches!(reply, Reply::Refused { status: 400..=499 | 502 | 503, .. });
        if create.attempts.iter().all(|attempt| refused(&attempt.reply)) {
            if holds.iter().any(|hold| hold.state != "RELEASED") {
                wrong.push("refused, yet its credits are not released".into());
            }
            if !tasks.is_empty() && !holds.iter().any(|hold| hold.possible_loss > 0) {
                wrong.push("refused, yet sent".into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate::ids::OrgId;

    use super::super::load::Attempt;
    use super::*;

    /// One create that went well, as the three accounts tell it.
    struct Story {
        tenants: Vec<Tenant>,
        creates: Vec<Create>,
        tasks: Vec<VendorTask>,
        holds: Vec<Hold>,
    }

    impl Story {
        fn new() -> Self {
            let org = OrgId::from_uuid(Uuid::from_u128(1));
            let reply = Reply::Accepted("n75a".into());
            let attempt = Attempt { gateway: 0, took: Duration::ZERO, reply };
            let (prompt, body) = ("a prompt".to_owned(), "a body".to_owned());
            let fingerprint = Fingerprint::of(body.as_bytes()).as_bytes().to_vec();
            let task_id = "n75a".to_owned();
            let hold = Hold {
                org_id: org.as_uuid(),
                hold_id: Uuid::from_u128(2),
                state: "SETTLED".into(),
                fingerprint,
                upstream_task: Some(task_id.clone()),
                raw_consumed: Some(400),
                charged: Some(400),
                consumes: 1,
                entered: 400,
                loss: 0,
                possible_loss: 0,
            };
            Self {
                tenants: vec![Tenant { org, key: String::new(), another_key: String::new() }],
                creates: vec![Create {
                    tenant: 0,
                    prompt: prompt.clone(),
                    body,
                    key: None,
                    attempts: vec![attempt],
                }],
                tasks: vec![VendorTask { task_id, consumed_credits: 400, prompt }],
                holds: vec![hold],
            }
        }

        /// The verdict once something is not as it should be.
        fn but(change: impl FnOnce(&mut Self)) -> Verdict {
            let mut story = Self::new();
            change(&mut story);
            let Self { tenants, creates, tasks, holds } = &story;
            Evidence { tenants, creates, tasks, holds }.judge()
        }
    }

    #[track_caller]
    fn sees(finding: &str, verdict: &Verdict) {
        assert!(
            verdict.findings.iter().any(|found| found.contains(finding)),
            "no {finding:?} in {verdict:#?}"
        );
    }

    #[test]
    fn an_honest_story_is_clean() {
        Story::but(|_| {}).must_be_clean();
        // In doubt, and the vendor has it; refused, and the vendor has not.
        Story::but(|story| {
            story.creates[0].attempts[0].reply = Reply::Unknown(story.holds[0].reference());
            let hold = &mut story.holds[0];
            (hold.upstream_task, hold.raw_consumed, hold.charged, hold.consumes, hold.entered) =
                (None, None, None, 0, 0);
            hold.state = "IN_DOUBT".into();
        })
        .must_be_clean();
        Story::but(|story| {
            story.creates[0].attempts[0].reply = Reply::Refused { status: 503, code: "UNAVAILABLE".into() };
            story.tasks.clear();
            story.holds.clear();
        })
        .must_be_clean();
    }

    #[test]
    fn a_loss_is_seen() {
        let lost = Story::but(|story| story.holds.clear());
        sees("was acknowledged, no hold has it", &lost);
        assert_eq!((lost.lost, lost.doubled), (400, 0));
        let forgotten = Story::but(|story| {
            story.creates[0].attempts[0].reply = Reply::NoAnswer;
            let hold = &mut story.holds[0];
            (hold.upstream_task, hold.charged, hold.consumes, hold.entered) = (None, None, 0, 0);
            hold.state = "RELEASED".into();
        });
        sees("a task that no hold stands for", &forgotten);
        assert_eq!(forgotten.lost, 400);
        sees("nobody created", &Story::but(|story| story.creates.clear()));
        sees("the vendor took", &Story::but(|story| story.holds[0].raw_consumed = Some(399)));
    }

    #[test]
    fn a_double_charge_is_seen() {
        let twice = Story::but(|story| {
            let again = VendorTask { task_id: "n75b".into(), ..story.tasks[0].clone() };
            story.tasks.push(again);
        });
        sees("2 tasks at the vendor for one create", &twice);
        assert_eq!(twice.doubled, 400);
        let entered = Story::but(|story| (story.holds[0].consumes, story.holds[0].entered) = (2, 800));
        sees("2 consume entries", &entered);
        assert_eq!(entered.doubled, 400);
        let held = Story::but(|story| {
            let again = Hold { hold_id: Uuid::from_u128(3), ..story.holds[0].clone() };
            story.holds.push(again);
        });
        sees("two holds for one create", &held);
        let without = Story::but(|story| story.tasks.clear());
        sees("a hold's task is not this create's", &without);
        assert_eq!(without.doubled, 400);
    }

    #[test]
    fn a_broken_word_is_seen() {
        let refusal = Reply::Refused { status: 503, code: "UNAVAILABLE".into() };
        let sent = Story::but(|story| story.creates[0].attempts[0].reply = refusal);
        sees("refused, yet sent", &sent);
        sees("refused, yet its credits are not released", &sent);
        sees("another organisation's", &Story::but(|story| story.holds[0].org_id = Uuid::from_u128(9)));
        let told_twice = Story::but(|story| {
            let mut again = story.creates[0].attempts[0].clone();
            again.reply = Reply::Accepted("n75b".into());
            story.creates[0].attempts.push(again);
        });
        sees("for one create", &told_twice);
        assert_eq!(Story::but(|story| story.holds[0].state = "RUNNING".into()).open, 1);
    }
}
