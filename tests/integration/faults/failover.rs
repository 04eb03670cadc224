//! The primary dies, its synchronous standby is promoted.

use std::time::Instant;

use super::postgres_kills::{LONGEST_ANSWER, slowest};
use crate::support::cluster::TestCluster;
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Plan;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};
use crate::support::network::Network;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_has_everything_that_was_acknowledged() {
    let rounds = scaled(1, 5);
    for _ in 0..rounds {
        let mut primary = TestCluster::new().await;
        let standby = primary.synchronous_standby().await;
        // The gateways look for the primary themselves; the judge is led to it.
        let way = Network::to(&primary.url()).await;
        let gateways_urls = vec![primary.url(), standby.url()];
        let spec = Spec { gateways_urls, ..Spec::on(way.url()) };
        let fleet = Fleet::start(spec).await;
        let load = fleet.load(Plan { rate: scaled(60, 200), keyed: 4, again: true });
        fleet.until_busy(scaled(60, 1000)).await;
        let last = Instant::now();
        // Fenced: it never comes back.
        primary.kill();
        standby.promote().await;
        way.lead_to(&standby.url());
        fleet.until_serving().await;
        let served = last.elapsed();
        load.stop().await;
        let slowest = slowest(&fleet);
        let verdict = fleet.conclude(last).await;
        let fault = "primary killed, synchronous standby promoted".into();
        report(&Row { fault, tried: 1, verdict: verdict.clone(), served: Some(served) });
        verdict.must_be_clean();
        assert!(slowest < LONGEST_ANSWER, "a customer waited {slowest:?}");
    }
}
