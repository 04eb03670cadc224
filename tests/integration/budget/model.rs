//! Random histories of an organisation with budgets that come, change and go, against a reference that knows one rule:
//! what a subject has spent in a window is what its open holds hold and its charges took, whatever budget there was.

use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tollgate::ids::{BudgetId, HoldId, KeyId, OrgId, TeamId, UserId};
use tollgate::store::{
    BudgetChange, BudgetLevel, Ledger, NewBudget, NewHold, Period, StoreError, UserChange, Verdict,
};

use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, ledger, new_hold, refuse, run, settle};
use crate::support::seed::user_named;
use crate::support::tenant::{Tenant, key_of};
use BudgetLevel::{Key, Organisation, Team, User};

#[derive(Debug, Clone)]
enum Op {
    /// At once, in this order: by whom, how much.
    Reserve(Vec<(usize, i64)>),
    /// Charged so much, or not taken at all.
    End(Index, Option<i64>),
    Make(Place, Option<i64>),
    Change(Index, Option<i64>),
    Delete(Index),
    /// A user goes to another team, or to none.
    Move(usize, Option<usize>),
}

/// Where a budget stands: level, whose own (none: each of the level), period.
type Place = (BudgetLevel, Option<usize>, Period);

/// Callers: two keys of one user, one of another, and the first user without a key.
const CALLERS: [(Option<usize>, usize); 4] = [(Some(0), 0), (Some(1), 0), (Some(2), 1), (None, 0)];

fn caps() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![1 => Just(None), 8 => (0..300i64).prop_map(Some)]
}

fn places() -> impl Strategy<Value = Place> {
    let whose = prop_oneof![
        3 => (0..3usize).prop_map(|key| (Key, Some(key))),
        2 => (0..2usize).prop_map(|user| (User, Some(user))),
        2 => (0..2usize).prop_map(|team| (Team, Some(team))),
        1 => prop_oneof![Just(Key), Just(User), Just(Team)].prop_map(|level| (level, None)),
        2 => Just((Organisation, None)),
    ];
    let period = prop_oneof![Just(Period::Daily), Just(Period::Total)];
    (whose, period).prop_map(|((level, own), period)| (level, own, period))
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => vec((0..CALLERS.len(), prop_oneof![1 => Just(0), 9 => 1..90i64]), 1..4).prop_map(Op::Reserve),
        5 => (any::<Index>(), prop::option::weighted(0.6, 0..120i64)).prop_map(|(hold, charge)| Op::End(hold, charge)),
        4 => (places(), caps()).prop_map(|(place, cap)| Op::Make(place, cap)),
        2 => (any::<Index>(), caps()).prop_map(|(budget, cap)| Op::Change(budget, cap)),
        2 => any::<Index>().prop_map(Op::Delete),
        1 => (0..2usize, prop::option::of(0..2usize)).prop_map(|(user, team)| Op::Move(user, team)),
    ]
}

struct Hold {
    id: HoldId,
    amount: i64,
    /// Key, user and team, as they were then.
    by: (Option<usize>, usize, Option<usize>),
    open: bool,
    charge: i64,
}

struct Budget {
    id: BudgetId,
    place: Place,
    cap: Option<i64>,
}

struct World<'a> {
    db: &'a TestDatabase,
    ledger: &'a Ledger,
    org: OrgId,
    keys: Vec<KeyId>,
    users: [UserId; 2],
    teams: [TeamId; 2],
    member: [Option<usize>; 2],
    holds: Vec<Hold>,
    budgets: Vec<Budget>,
}

impl World<'_> {
    fn by(&self, caller: usize) -> (Option<usize>, usize, Option<usize>) {
        let (key, user) = CALLERS[caller];
        (key, user, self.member[user])
    }

    /// Used and held by that subject.
    fn spent(&self, level: BudgetLevel, subject: usize) -> (i64, i64) {
        let of = |hold: &&Hold| match level {
            Key => hold.by.0 == Some(subject),
            User => hold.by.1 == subject,
            Team => hold.by.2 == Some(subject),
            Organisation => true,
        };
        self.holds.iter().filter(of).fold((0, 0), |(used, held), hold| {
            if hold.open { (used, held + hold.amount) } else { (used + hold.charge, held) }
        })
    }

    /// What counts for a caller, narrowest first: the budget, and what is used and held.
    fn drawn(&self, caller: usize) -> Vec<(&Budget, i64, i64)> {
        let (key, user, team) = self.by(caller);
        let subjects = [(Key, key), (User, Some(user)), (Team, team), (Organisation, Some(0))];
        let mut drawn = Vec::new();
        for (level, subject) in subjects {
            let Some(subject) = subject else { continue };
            for period in [Period::Daily, Period::Total] {
                let at = |own| self.budgets.iter().find(|budget| budget.place == (level, own, period));
                if let Some(budget) = at(Some(subject)).or_else(|| at(None)) {
                    let (used, held) = self.spent(level, subject);
                    drawn.push((budget, used, held));
                }
            }
        }
        drawn
    }

    /// The budget that refuses, and what is left of it.
    fn refuses(&self, caller: usize, amount: i64) -> Option<(BudgetId, i64)> {
        self.drawn(caller).into_iter().find_map(|(budget, used, held)| {
            let left = budget.cap? - used - held;
            (amount > left).then_some((budget.id, left))
        })
    }

    fn new_hold(&self, caller: usize, amount: i64) -> NewHold {
        let (key, user, _) = self.by(caller);
        NewHold { user: self.users[user], key: key.map(|key| self.keys[key]), ..new_hold(self.org, amount) }
    }

    async fn reserve(&mut self, wishes: &[(usize, i64)]) {
        let news: Vec<NewHold> =
            wishes.iter().map(|(caller, amount)| self.new_hold(*caller, *amount)).collect();
        let verdicts = join_all(news.into_iter().map(|new| self.ledger.reserve(new))).await;
        for ((caller, amount), verdict) in wishes.iter().zip(verdicts) {
            match (self.refuses(*caller, *amount), verdict.unwrap()) {
                (None, Verdict::Granted(guard)) => {
                    let by = self.by(*caller);
                    self.holds.push(Hold { id: guard.id(), amount: *amount, by, open: true, charge: 0 });
                    std::mem::forget(guard);
                }
                (Some((budget, left)), Verdict::OverBudget { budget: named, left: told }) => {
                    // One of several may have been refused by what there was before the others of its batch.
                    assert!(
                        wishes.len() > 1 || (named, told.get()) == (budget, left),
                        "{named} {told}, not {budget} {left}"
                    );
                }
                (expected, found) => panic!("{amount} of caller {caller}: {expected:?}, found {found:?}"),
            }
        }
    }

    async fn end(&mut self, hold: Index, charge: Option<i64>) {
        let open: Vec<usize> = (0..self.holds.len()).filter(|n| self.holds[*n].open).collect();
        let Some(n) = (!open.is_empty()).then(|| open[hold.index(open.len())]) else { return };
        let id = self.holds[n].id;
        match charge {
            Some(charge) => {
                self.ledger.step(self.org, id, run(id)).await.unwrap();
                self.ledger.step(self.org, id, settle(charge)).await.unwrap();
            }
            None => {
                self.ledger.step(self.org, id, refuse()).await.unwrap();
            }
        }
        (self.holds[n].open, self.holds[n].charge) = (false, charge.unwrap_or(0));
    }

    async fn make(&mut self, place: Place, cap: Option<i64>) {
        let (level, own, period) = place;
        let subject = own.map(|n| match level {
            Key => self.keys[n].to_string(),
            User => self.users[n].to_string(),
            Team => self.teams[n].to_string(),
            Organisation => unreachable!(),
        });
        let org = Some(self.org);
        let new = NewBudget { org, level, subject, period, credits: cap.map(credits), thresholds: None };
        let taken = self.budgets.iter().any(|budget| budget.place == place);
        match self.db.database().make_budget(&new).await {
            Ok(id) if !taken => self.budgets.push(Budget { id, place, cap }),
            Err(StoreError::Conflict(_)) if taken => {}
            other => panic!("{place:?}: {other:?}"),
        }
    }

    async fn apply(&mut self, op: &Op) {
        let database = self.db.database();
        match op {
            Op::Reserve(wishes) => self.reserve(wishes).await,
            Op::End(hold, charge) => self.end(*hold, *charge).await,
            Op::Make(place, cap) => self.make(*place, *cap).await,
            Op::Change(..) | Op::Delete(_) if self.budgets.is_empty() => {}
            Op::Change(budget, cap) => {
                let n = budget.index(self.budgets.len());
                let change = BudgetChange { credits: Some(cap.map(credits)), thresholds: None };
                database.change_budget(self.budgets[n].id, change, None).await.unwrap();
                self.budgets[n].cap = *cap;
            }
            Op::Delete(budget) => {
                let gone = self.budgets.swap_remove(budget.index(self.budgets.len()));
                database.delete_budget(gone.id, None).await.unwrap();
            }
            Op::Move(user, team) => {
                let change =
                    UserChange { team: Some(team.map(|team| self.teams[team])), ..UserChange::default() };
                database.update_user(self.users[*user], change, None).await.unwrap();
                self.member[*user] = *team;
            }
        }
    }

    async fn compare(&self) {
        for (caller, (key, user)) in CALLERS.into_iter().enumerate() {
            let key = key.map(|key| self.keys[key]);
            let found = self.db.database().budgets_of_caller(self.org, self.users[user], key).await.unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|b| (b.level, b.period, b.limit.map(|c| c.get()), b.used.get(), b.held.get()))
                .collect();
            let expected: Vec<_> = self
                .drawn(caller)
                .into_iter()
                .map(|(budget, used, held)| (budget.place.0, budget.place.2, budget.cap, used, held))
                .collect();
            assert_eq!(found, expected, "caller {caller}");
        }
    }
}

async fn play(db: &TestDatabase, ledger: &Ledger, ops: &[Op]) {
    let tenant = Tenant::new(db, 1_000_000).await;
    let other = db.database().add_user(tenant.org, &user_named("grace")).await.unwrap();
    let keys =
        vec![tenant.key, key_of(db, tenant.org, tenant.user).await, key_of(db, tenant.org, other).await];
    let mut world = World {
        db,
        ledger,
        org: tenant.org,
        keys,
        users: [tenant.user, other],
        teams: [tenant.team, db.database().create_team(tenant.org, "sound").await.unwrap()],
        member: [Some(0), None],
        holds: Vec::new(),
        budgets: Vec::new(),
    };
    for op in ops {
        world.apply(op).await;
    }
    world.compare().await;
}

#[test]
fn every_history_with_budgets_agrees_with_the_rule() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let db = runtime.block_on(TestDatabase::new());
    let ledger = runtime.block_on(ledger(&db));
    let config = Config { cases: 60, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    TestRunner::new(config)
        .run(&vec(ops(), 1..30), |ops| {
            runtime.block_on(play(&db, &ledger, &ops));
            Ok(())
        })
        .unwrap();
    runtime.block_on(ledger.shut_down());
}
