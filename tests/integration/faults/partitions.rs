//! The network between gateways and PostgreSQL fails. Nobody restarts anything.

use std::time::{Duration, Instant};

use super::postgres_kills::{LONGEST_ANSWER, slowest};
use crate::support::database::TestDatabase;
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Plan;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};
use crate::support::network::{Flow, Network, Weather};

const DELAYED: Weather = Weather::both(Flow::Delay(Duration::from_millis(250)));
const DEAF: Weather = Weather { questions: Flow::Swallow, ..Weather::CLEAR };
const MUTE: Weather = Weather { answers: Flow::Swallow, ..Weather::CLEAR };

/// The first gateway has a way of its own, the others share one: it is cut off while they go on and take it for dead,
/// or all are.
async fn under(fault: &str, weathers: &[Weather]) {
    let db = TestDatabase::new().await;
    let (own, shared) = (Network::to(db.url()).await, Network::to(db.url()).await);
    let each = vec![(0, vec![("TOLLGATE_DATABASE__URLS", format!("[{:?}]", own.url()))])];
    let fleet = Fleet::start(Spec { each, ..Spec::on(db.url()).through(shared.url()) }).await;
    let load = fleet.load(Plan { rate: scaled(40, 200), keyed: 4, again: true });
    let (mut tried, mut last, mut served) = (0, Instant::now(), Duration::ZERO);
    for _ in 0..scaled(1, 5) {
        for &weather in weathers {
            for all in [false, true] {
                own.set(weather);
                if all {
                    shared.set(weather);
                }
                if weather == DELAYED {
                    fleet.until_busy(scaled(20, 300)).await;
                } else {
                    fleet.until_taken_for_dead(if all { 3 } else { 1 }).await;
                }
                own.set(Weather::CLEAR);
                shared.set(Weather::CLEAR);
                last = Instant::now();
                served = served.max(fleet.until_serving().await);
                tried += 1;
            }
        }
    }
    load.stop().await;
    let slowest = slowest(&fleet);
    let verdict = fleet.conclude(last).await;
    report(&Row { fault: fault.into(), tried, verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
    assert!(slowest < LONGEST_ANSWER, "a customer waited {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_loses_nothing() {
    under("network to PostgreSQL cut", &[Weather::CUT]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_loses_nothing() {
    under("network to PostgreSQL slower by 500 ms", &[DELAYED]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_loses_nothing() {
    under("network to PostgreSQL swallows questions, answers", &[DEAF, MUTE]).await;
}
