//! Several look at one task's end at once.

use std::time::Instant;

use futures_util::future::join_all;

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Customers;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};

/// Both gateways' reconcilers, and a customer at each who asks all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_reconcilers_and_a_polling_client_end_a_task_once() {
    let db = TestDatabase::new().await;
    let quick = |name, value: &str| (name, value.to_owned());
    let all = vec![
        quick("TOLLGATE_RECONCILER__TICK_MS", "10"),
        quick("TOLLGATE_RECONCILER__INTERVAL_MS", "10"),
        quick("TOLLGATE_STATUS__MIN_INTERVAL_MS", "1"),
    ];
    let fleet = Fleet::start(Spec { gateways: 2, all, ..Spec::on(db.url()) }.patient()).await;
    let tasks = scaled(20, 200);
    let mut tried = 0;
    // A machine may be so busy that nobody looks while the tasks run: then there was no race.
    until("somebody looked while the tasks ran", async || {
        tried += tasks;
        let polls = join_all((0..tasks).map(|number| ended_before_two(&fleet.customers, number))).await;
        polls.iter().sum::<u32>() > 0
    })
    .await;
    let verdict = fleet.conclude(Instant::now()).await;
    let fault = "two reconcilers and two polling clients on one task".into();
    report(&Row { fault, tried, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}

/// Creates a task and asks both gateways for it until it has ended; how often both found it running.
async fn ended_before_two(customers: &Customers, number: usize) -> u32 {
    let tenant = number % 20;
    let id = customers.judged(tenant, number % 2).await.task_id().to_owned();
    let poll = async |gateway| {
        let mut polls = 0;
        until("the task ends", async || {
            let open = customers.status(tenant, gateway, &id).await["status"] == "IN_PROGRESS";
            polls += u32::from(open);
            !open
        })
        .await;
        polls
    };
    let (here, there) = tokio::join!(poll(0), poll(1));
    here.min(there)
}
