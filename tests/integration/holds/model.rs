//! Random histories of an organisation against the ledger and against a reference model of its rules: verdict by
//! verdict, balance by balance, and in the end each credit can still be spent.
//!
//! `TOLLGATE_MODEL_SEED` repeats a run, `TOLLGATE_MODEL_HISTORIES` sets its length (2,000).

mod histories;
mod rules;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::task::JoinSet;
use tollgate::ids::{HoldId, KeyId, OrgId};
use tollgate::store::{
    Applied, Fingerprint, HoldGuard, Ledger, NewHold, OrgChange, State, Step, StoreError, TaskFilter, Verdict,
};

use self::histories::{Kind, Op, Wish, histories};
use self::rules::{Expected, Model, charge, price};
use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, doubt, ledger, new_hold, refuse, run_as};
use crate::support::seed::{TOP_UP, org_named};

const IN_FLIGHT: u64 = 64;
const SHRINK_STEPS: u32 = 1_000;

struct World {
    db: TestDatabase,
    gateways: [Ledger; 2],
    keys: [KeyId; 2],
}

struct History<'a> {
    world: &'a World,
    org: OrgId,
    reserves: &'a Ledger,
    steps: &'a Ledger,
    model: Model,
    /// By the index of the model's hold.
    holds: Vec<(HoldId, Option<HoldGuard>)>,
}

fn differ(what: &str, expected: impl Debug, found: impl Debug) -> Result<(), String> {
    Err(format!("{what}: expected {expected:?}, found {found:?}"))
}

async fn play(world: &World, ops: &[Op], number: u64) -> Result<(), String> {
    let org = world.db.database().add_org(&org_named(&HoldId::generate().to_string())).await.unwrap();
    let [reserves, steps] =
        if number.is_multiple_of(2) { [0, 1] } else { [0, 0] }.map(|n| &world.gateways[n]);
    let mut history = History { world, org, reserves, steps, model: Model::default(), holds: Vec::new() };
    let played = history.play(ops).await;
    // The guards of what is still open must not release it.
    history.holds.drain(..).for_each(|(_, guard)| std::mem::forget(guard));
    played
}

impl History<'_> {
    async fn play(&mut self, ops: &[Op]) -> Result<(), String> {
        for (n, op) in ops.iter().enumerate() {
            let compared = match self.apply(op).await {
                Ok(()) => self.compare_balance().await,
                Err(error) => Err(error),
            };
            compared.map_err(|error| format!("operation {n}: {error}"))?;
        }
        self.compare_states().await?;
        self.drain().await
    }

    async fn apply(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Credit(amount) => self.credit(*amount).await,
            Op::Limits { overdraft, cap } => {
                self.limit(*overdraft, *cap).await;
                Ok(())
            }
            Op::Reserve(wishes) => self.reserve(wishes).await,
            Op::Steps(steps) if self.holds.is_empty() => {
                let applied = self.steps.step(self.org, HoldId::generate(), refuse()).await.unwrap();
                if applied == Applied::No { Ok(()) } else { differ("a step of no hold", &steps[0], applied) }
            }
            Op::Steps(steps) => self.step(steps).await,
            Op::Drop { hold, sent } => {
                if !self.holds.is_empty() {
                    self.drop_guard(hold.index(self.holds.len()), *sent).await;
                }
                Ok(())
            }
        }
    }

    async fn credit(&mut self, amount: i64) -> Result<(), String> {
        let database = self.world.db.database();
        let posted = if amount > 0 {
            database.grant(self.org, credits(amount), None, TOP_UP, None).await
        } else {
            database.adjust(self.org, credits(amount), TOP_UP, None).await
        };
        let expected = self.model.credit(amount);
        match posted {
            Ok(posted) if expected && i128::from(posted.answer.available.get()) == self.model.available => {
                Ok(())
            }
            Err(StoreError::Invalid(_) | StoreError::Conflict(_)) if !expected => Ok(()),
            found => differ("credit", (expected, self.model.available), found),
        }
    }

    async fn limit(&mut self, overdraft: i64, cap: i32) {
        let limits = OrgChange {
            overdraft: Some(credits(overdraft)),
            max_open_tasks: Some(Some(cap)),
            ..OrgChange::default()
        };
        self.world.db.database().update_org(self.org, limits, None).await.unwrap();
        (self.model.overdraft, self.model.cap) = (overdraft.into(), cap);
    }

    async fn reserve(&mut self, wishes: &[Wish]) -> Result<(), String> {
        let news: Vec<NewHold> = wishes.iter().map(|wish| self.new_hold(wish)).collect();
        let before = self.model.available;
        let answers = join_all(news.iter().map(|new| self.reserves.reserve(new.clone()))).await;
        for (n, ((wish, new), answer)) in wishes.iter().zip(news).zip(answers).enumerate() {
            let rival = wish.idem.is_some() && wishes[..n].iter().any(|other| other.idem == wish.idem);
            if rival && matches!(answer, Ok(Verdict::KeyTaken)) {
                // Its rival may have been refused meanwhile: while both wait, the first in line has the key.
                continue;
            }
            let expected = self.model.reserve(wish);
            match (&expected, answer) {
                (Expected::Granted { available }, Ok(Verdict::Granted(guard)))
                    if i128::from(guard.available().get()) == *available && guard.id() == new.hold =>
                {
                    self.holds.push((new.hold, Some(guard)));
                }
                (Expected::Insufficient, Ok(Verdict::Insufficient { available }))
                    if (self.model.available..=before).contains(&i128::from(available.get())) => {}
                (Expected::TooManyTasks, Ok(Verdict::TooManyTasks))
                | (Expected::KeyTaken, Ok(Verdict::KeyTaken))
                | (Expected::Refused, Err(StoreError::Refused(_))) => {}
                (Expected::InDoubt, Ok(Verdict::InDoubt(reference))) if self.is_doubt(wish, reference) => {}
                (_, found) => return differ(&format!("wish {n}"), expected, found),
            }
        }
        Ok(())
    }

    fn is_doubt(&self, wish: &Wish, reference: HoldId) -> bool {
        let found = self.holds.iter().position(|(hold, _)| *hold == reference);
        found.is_some_and(|index| self.model.doubts(wish, &self.model.holds[index]))
    }

    fn new_hold(&self, wish: &Wish) -> NewHold {
        let (amount, list, factor) = price(wish);
        NewHold {
            key: wish.key.map(|key| self.world.keys[usize::from(key)]),
            amount: credits(amount),
            list_price: credits(list),
            factor,
            fingerprint: Fingerprint::of(&[wish.body]),
            idempotency_key: wish.idem.map(|key| key.to_string().into()),
            refuse_if_in_doubt: wish.guarded,
            ..new_hold(self.org, amount)
        }
    }

    async fn step(&mut self, steps: &[(Index, Kind)]) -> Result<(), String> {
        let steps: Vec<_> = steps.iter().map(|(hold, kind)| (hold.index(self.holds.len()), kind)).collect();
        for group in steps.chunks(if self.depends_on_batches(&steps) { 1 } else { steps.len() }) {
            let calls = group.iter().map(|(index, kind)| {
                self.steps.step(self.org, self.holds[*index].0, self.as_step(*index, kind))
            });
            let answers = join_all(calls).await;
            for ((index, kind), answer) in group.iter().zip(answers) {
                let expected = self.model.step(*index, kind);
                match (expected, answer) {
                    (Some(expected), Ok(applied)) if applied == expected => {}
                    (None, Err(StoreError::Refused(_))) => {}
                    (expected, found) => {
                        return differ(&format!("{kind:?} of hold {index}"), expected, found);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the outcome depends on which of the steps meet in one batch. Each hold's own are always in order.
    fn depends_on_batches(&self, steps: &[(usize, &Kind)]) -> bool {
        let repeated = |n: usize| steps[..n].iter().any(|(index, _)| *index == steps[n].0);
        // Near the edge of what a balance can be, the sum of a batch may fit where its parts do not.
        let huge = steps
            .iter()
            .any(|(_, kind)| matches!(kind, Kind::Settle(raw) | Kind::LateSettle(raw) if *raw > 1 << 40));
        // A hold's second step lets others pass, who may take the upstream id that it wants. So does the kind of a step: an
        // accepted create passes those that need the balance row, and one in doubt is sent again in a side lane.
        let runs: Vec<(bool, State)> = steps
            .iter()
            .filter(|(_, kind)| matches!(kind, Kind::Run(_) | Kind::LateRun(_)))
            .map(|(index, kind)| (matches!(kind, Kind::LateRun(_)), self.model.holds[*index].state))
            .collect();
        let passed = runs.iter().any(|run| *run != runs[0]);
        huge || (runs.len() > 1 && (passed || (0..steps.len()).any(repeated)))
    }

    fn as_step(&self, index: usize, kind: &Kind) -> Step {
        let hold = &self.model.holds[index];
        let list = price(&hold.wish).1;
        let id = |task: u8| format!("{} {}", self.org, hold.task.unwrap_or(task));
        match kind {
            Kind::LateRun(task) => {
                Step::LateRun { task: id(*task).into(), reason: None, poll_in: Duration::ZERO }
            }
            Kind::LateSettle(raw) => {
                let (raw, charge) = charge(&hold.wish, *raw);
                let raw = credits(raw);
                Step::LateSettle { raw, reported: Some(raw), charge: credits(charge) }
            }
            Kind::LateFail(loss) => Step::LateFail { loss: credits(*loss) },
            Kind::LateDrop => Step::LateDrop,
            Kind::Run(task) => run_as(&id(*task)),
            Kind::Settle(raw) => {
                let (raw, charge) = charge(&hold.wish, *raw);
                Step::Settle {
                    task: None,
                    raw: credits(raw),
                    reported: Some(credits(raw)),
                    charge: credits(charge),
                    flag: None,
                }
            }
            Kind::Fail(loss) => Step::Fail { task: None, loss: credits(*loss) },
            Kind::Refuse => refuse(),
            Kind::Abandon => Step::Abandon,
            Kind::Doubt => doubt(),
            Kind::WriteOff => Step::WriteOff { possible_loss: credits(list) },
        }
    }

    async fn drop_guard(&mut self, index: usize, sent: bool) {
        let Some(mut guard) = self.holds[index].1.take() else { return };
        if sent {
            guard.about_to_send();
        }
        drop(guard);
        self.model.step(index, if sent { &Kind::Doubt } else { &Kind::Abandon });
        // Nobody is told when a dropped hold has moved, but what is queued behind it comes after it.
        self.reserves.step(self.org, HoldId::generate(), refuse()).await.unwrap();
    }

    async fn compare_balance(&self) -> Result<(), String> {
        let found = self.world.db.database().balance(self.org).await.unwrap().unwrap();
        if found == self.model.balance() { Ok(()) } else { differ("balance", self.model.balance(), found) }
    }

    async fn compare_states(&self) -> Result<(), String> {
        let tasks = self.world.db.database().tasks(self.org, &TaskFilter::default(), 1000).await.unwrap();
        let found: HashMap<_, _> =
            tasks.into_iter().map(|task| (task.hold, (task.state, task.late))).collect();
        let holds = self.holds.iter().map(|(hold, _)| *hold);
        let expected: HashMap<_, _> =
            holds.zip(self.model.holds.iter().map(|hold| (hold.state, hold.late))).collect();
        if found == expected { Ok(()) } else { differ("states", expected, found) }
    }

    /// A balance that overspends is wrong, and so is one that refuses what is there.
    async fn drain(&mut self) -> Result<(), String> {
        if self.model.overdraft > 0 || self.model.cap > 0 {
            self.limit(0, 0).await;
        }
        let rest = i64::try_from(self.model.available).unwrap();
        let plain = |list| Wish { list, factor_bp: 10_000, idem: None, key: None, body: 0, guarded: false };
        let mut wishes = vec![plain(1)];
        if rest > 0 {
            wishes.insert(0, plain(rest));
        }
        self.reserve(&wishes).await?;
        self.compare_balance().await?;
        let left = self.model.available;
        if left == i128::from(rest.min(0)) { Ok(()) } else { differ("drained", 0, left) }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn tree(seed: u64, number: u64) -> impl ValueTree<Value = Vec<Op>> {
    let digest = Fingerprint::of(format!("{seed} {number}").as_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, digest.as_bytes());
    histories().new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).unwrap()
}

/// The shortest failing history that is found in a while.
async fn shrink(world: &World, seed: u64, number: u64, first: String) -> String {
    let mut tree = tree(seed, number);
    let mut smallest = (tree.current(), first);
    for _ in 0..SHRINK_STEPS {
        match play(world, &tree.current(), number).await {
            Err(error) => {
                smallest = (tree.current(), error);
                if !tree.simplify() {
                    break;
                }
            }
            Ok(()) => {
                if !tree.complicate() {
                    break;
                }
            }
        }
    }
    let ops: String = smallest.0.iter().enumerate().map(|(n, op)| format!("{n}: {op:?}\n")).collect();
    format!("seed {seed}, history {number}: {}\n{ops}", smallest.1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_agrees_with_the_model() {
    let seed = from_environment("TOLLGATE_MODEL_SEED").unwrap_or_else(rand::random);
    let histories = from_environment("TOLLGATE_MODEL_HISTORIES").unwrap_or(2_000);
    let db = TestDatabase::new().await;
    let gateways = [ledger(&db).await, ledger(&db).await];
    let world = Arc::new(World { db, gateways, keys: [KeyId::generate(), KeyId::generate()] });
    let next = Arc::new(AtomicU64::new(0));
    let mut players = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (world, next) = (world.clone(), next.clone());
        players.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= histories {
                    return Ok(());
                }
                let ops = tree(seed, number).current();
                play(&world, &ops, number).await.map_err(|error| (number, error))?;
            }
        });
    }
    while let Some(played) = players.join_next().await {
        if let Err((number, error)) = played.unwrap() {
            players.shutdown().await;
            panic!("{}", shrink(&world, seed, number, error).await);
        }
    }
    for gateway in &world.gateways {
        gateway.shut_down().await;
    }
}
