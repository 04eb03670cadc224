//! A gateway that is killed under an attack, and comes back into it.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;

use super::calls::Met;
use super::{NEIGHBOURS, Street, Target, end, length};
use crate::support::database::until;
use crate::support::faults::scaled;

impl Street {
    /// A street whose gateway, started again, can have its former address: nobody else listens there.
    pub async fn with_an_address() -> Self {
        // Others end its holds soon after its death.
        let lease = ("TOLLGATE_LEDGER__LEASE_MS", "6000");
        Self::with(1, &[("TOLLGATE_SERVER__LISTEN", "127.0.8.1:0"), lease]).await
    }

    /// Lets `attack` loose. The gateway is killed under it while creates and tasks of the neighbours are under way. It is started once,
    /// while the attack goes on: it must serve, end what was under way, and not be killed again.
    pub async fn comes_back<A>(mut self, name: &str, strength: usize, attack: impl Fn(Target) -> A)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let (before, met) = (Met::default(), Met::default());
        let target = self.target(None);
        let attacking = self.attackers.start(&target, attack(target.clone()));
        while !attacking.is_finished() && !target.has_sent(strength) {
            self.lives(1, Instant::now(), &before).await;
        }
        before.must_be_served(name);
        let slow = json!({"kind": "delay", "ms": 2000, "accept": true});
        let theirs = format!("organisation {} create", NEIGHBOURS[0]);
        let rule = json!([{"on": "create", "match": {"prompt_contains": theirs}, "fault": slow}]);
        self.fleet.vendor.script(rule).await;
        let (customers, creates) = (self.fleet.customers.clone(), scaled(15, 30));
        let received = self.fleet.vendor.creates_received().await;
        let creating = (0..creates).map(|_| {
            let customers = customers.clone();
            tokio::spawn(async move { customers.create(NEIGHBOURS[0], 0).await })
        });
        let creating: Vec<_> = creating.collect();
        until("creates are with the vendor", async || {
            self.fleet.vendor.creates_received().await >= received + creates
        })
        .await;
        let address = self.base(0).trim_start_matches("http://").to_owned();
        self.fleet.kill(0).await;
        join_all(creating).await;
        self.fleet.vendor.behave().await;

        let again = vec![("TOLLGATE_SERVER__LISTEN", address)];
        self.fleet.launch_as(0, &again).await;
        self.operations[0] = self.fleet.admin_url(0);
        self.fleet.until_serving().await;
        self.lives(scaled(3, 60), Instant::now() + length(), &met).await;
        self.until_ended().await;
        end(&target).await;
        attacking.await.unwrap();
        met.must_be_served(name);
        println!("{name}: {} calls of neighbours, {} MiB at the peak", met.count(), self.peak(name) >> 20);
        self.concludes().await;
    }
}
