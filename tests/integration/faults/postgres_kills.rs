//! PostgreSQL dies and comes back; and what that would do without the wait for the disk.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::cluster::TestCluster;
use crate::support::database::until;
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::{Plan, Reply};
use crate::support::faults::oracle::Verdict;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};

const LOAD: Plan = Plan { rate: 100, keyed: 4, again: true };

/// No answer may take longer, whatever is away: a key's look-up (2 s for a connection, 5 s for its answer), an
/// idempotency key's (the same), a reservation (3 s), the vendor, a record (5 s). Where a deadline is missing, an answer
/// takes for ever: this tells the two apart on the busiest machine.
pub const LONGEST_ANSWER: Duration = Duration::from_secs(240);

/// How many creates are refused because the ledger is away, so far.
fn refused(fleet: &Fleet, gateway: usize) -> usize {
    let log = fleet.customers.log.lock().unwrap();
    let attempts =
        log.iter().flat_map(|create| &create.attempts).filter(|attempt| attempt.gateway == gateway);
    attempts.filter(|attempt| matches!(attempt.reply, Reply::Refused { status: 503, .. })).count()
}

/// Waits until each gateway has refused a create with a 503 that it did not before.
pub async fn until_noticed(fleet: &Fleet) {
    let before = [0, 1, 2].map(|gateway| refused(fleet, gateway));
    until("each gateway refuses creates", async || {
        (0..3).all(|gateway| refused(fleet, gateway) > before[gateway])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_loses_nothing_and_nothing_is_sent_without_it() {
    let mut server = TestCluster::new().await;
    let fleet = Fleet::start(Spec::on(&server.url())).await;
    let load = fleet.load(Plan { rate: scaled(60, 200), ..LOAD });
    let kills = scaled(3, 10);
    let (mut last, mut served) = (Instant::now(), Duration::ZERO);
    for _ in 0..kills {
        fleet.until_busy(scaled(30, 400)).await;
        server.kill();
        // What was granted before is on its way for a moment: longer on a busy machine.
        let mut sent = Vec::new();
        while sent.len() < 5 && (sent.len() < 2 || sent[sent.len() - 2] != sent[sent.len() - 1]) {
            until_noticed(&fleet).await;
            sent.push(fleet.vendor.creates_received().await);
        }
        assert!(sent.windows(2).any(|two| two[0] == two[1]), "sent without a ledger: {sent:?}");
        last = Instant::now();
        server.restart();
        served = served.max(fleet.until_serving().await);
    }
    load.stop().await;
    let slowest = slowest(&fleet);
    let verdict = fleet.conclude(last).await;
    let fault = "PostgreSQL killed and restarted".into();
    report(&Row { fault, tried: kills, verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
    assert!(slowest < LONGEST_ANSWER, "a customer waited {slowest:?}");
}

/// The longest that a customer waited for an answer.
pub fn slowest(fleet: &Fleet) -> Duration {
    let log = fleet.customers.log.lock().unwrap();
    log.iter().flat_map(|create| &create.attempts).map(|attempt| attempt.took).max().unwrap()
}

/// The control: gateways that do not wait for the disk, on a server that is in no hurry to write. What they have
/// acknowledged is lost with the server, and the judge must see it; else the test above would prove nothing. Something else
/// may have written it: then another server is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_durability_barrier_the_judge_sees_the_loss() {
    let mut tried = 1;
    let verdict = loop {
        let verdict = killed_without_the_barrier().await;
        if verdict.lost > 0 {
            break verdict;
        }
        tried += 1;
        assert!(tried <= 10, "nothing is ever lost: {verdict:?}");
    };
    let fault = "CONTROL: the same, commits not waited for".into();
    report(&Row { fault, tried, verdict: verdict.clone(), served: None });
    let lost = verdict.findings.iter().filter(|finding| finding.contains("was acknowledged, no hold has it"));
    assert!(lost.count() > 0, "the judge saw nothing: {verdict:?}");
}

async fn killed_without_the_barrier() -> Verdict {
    let mut server = TestCluster::new().await;
    let url = server.url();
    let careless =
        format!("{url}&options=-c%20synchronous_commit%3Doff%20-c%20tollgate.data_may_be_lost%3Don");
    let spec = Spec { task_time: Duration::from_secs(3600), ..Spec::on(&url).through(&careless) };
    let fleet = Fleet::start(spec).await;
    // It would write a moment later what nobody waits for: a moment in which a crash hits only by luck.
    let writer: i32 = sqlx::query_scalar("select pid from pg_stat_activity where backend_type = 'walwriter'")
        .fetch_one(&fleet.pool)
        .await
        .unwrap();
    kill(Pid::from_raw(writer), Signal::SIGSTOP).unwrap();
    let load = fleet.load(Plan { keyed: 0, again: false, ..LOAD });
    let acknowledged = || {
        let log = fleet.customers.log.lock().unwrap();
        log.iter().filter(|create| matches!(create.attempts[0].reply, Reply::Accepted(_))).count()
    };
    until("some creates are acknowledged", async || acknowledged() >= scaled(30, 300)).await;
    server.kill();
    kill(Pid::from_raw(writer), Signal::SIGKILL).unwrap();
    load.stop().await;
    server.restart();
    fleet.judge().await
}
