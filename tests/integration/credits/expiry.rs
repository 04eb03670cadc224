//! Grants that run out: what burns them, what is taken back, and when. Time is an argument of the functions of the ledger,
//! so here it passes by the minute.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sqlx::PgPool;
use time::OffsetDateTime;
use time::macros::datetime;
use tollgate::ids::{EntryId, HoldId, OrgId};
use tollgate::store::StoreError;
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, funded};

const START: OffsetDateTime = datetime!(2026-03-01 00:00 UTC);

fn minute(minute: i64) -> OffsetDateTime {
    START + time::Duration::minutes(minute)
}

async fn post(
    pool: &PgPool,
    org: OrgId,
    kind: &str,
    amount: i64,
    ends: Option<i64>,
    now: i64,
) -> Option<EntryId> {
    let entry = EntryId::generate();
    let outcome: String = sqlx::query_scalar(
        "select outcome from post_entry($1, $2, $3, $4, 'test', null, $5, null, 'test', $6)",
    )
    .bind(org.as_uuid())
    .bind(entry.as_uuid())
    .bind(kind)
    .bind(amount)
    .bind(ends.map(minute))
    .bind(minute(now))
    .fetch_one(pool)
    .await
    .unwrap();
    (outcome == "posted").then_some(entry)
}

pub async fn reserve(pool: &PgPool, org: OrgId, amount: i64, now: OffsetDateTime) -> Option<HoldId> {
    let hold = HoldId::generate();
    let verdict: Vec<Option<String>> = sqlx::query_scalar(
        "select verdict from reserve_batch(array[$1], array[1], array[$2], array[$1], array[null]::uuid[], array[$3], \
         array[$3], array[10000], array[1], array['pro-text-to-video'], array['kling-3.0'], array['main'], \
         array['\\x00'::bytea], array[null]::text[], array[false], array[false], $1, 0, 60000, false, $4)",
    )
    .bind(org.as_uuid())
    .bind(hold.as_uuid())
    .bind(amount)
    .bind(now)
    .fetch_one(pool)
    .await
    .unwrap();
    (verdict == [Some("granted".into())]).then_some(hold)
}

pub async fn step(
    pool: &PgPool,
    org: OrgId,
    hold: HoldId,
    kind: &str,
    charge: Option<i64>,
    now: OffsetDateTime,
) {
    let outcome: Vec<String> = sqlx::query_scalar(
        "select outcome from transition_batch(array[$1], array[1], array[$2], array[$3], array[$4]::text[], array[$5]::bigint[], \
         array[$5]::bigint[], array[$5]::bigint[], array[0]::bigint[], array[false], array[null]::text[], array[null]::text[], \
         array[null]::text[], array[60000]::bigint[], $6)",
    )
    .bind(org.as_uuid())
    .bind(hold.as_uuid())
    .bind(kind)
    .bind(kind.ends_with("run").then(|| hold.to_string()))
    .bind(charge)
    .bind(now)
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(outcome, ["applied"], "{kind}");
}

async fn settle(pool: &PgPool, org: OrgId, hold: HoldId, charge: i64, now: i64) {
    step(pool, org, hold, "run", None, minute(now)).await;
    step(pool, org, hold, "settle", Some(charge), minute(now)).await;
}

async fn expire(db: &TestDatabase, org: OrgId, now: i64) -> i64 {
    db.database().expire_credits_of(org, Some(minute(now))).await.unwrap().get()
}

async fn available(db: &TestDatabase, org: OrgId) -> i64 {
    db.database().balance(org).await.unwrap().unwrap().available.get()
}

/// What is left of its grants, by their end.
async fn left(pool: &PgPool, org: OrgId) -> Vec<(Uuid, i64)> {
    sqlx::query_as(
        "select entry_id, amount - burned - expired from credit_lot where org_id = $1 order by expires_at, entry_id",
    )
    .bind(org.as_uuid())
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn the_grant_that_ends_first_burns_first_and_the_rest_of_it_is_taken_back_once() {
    let db = TestDatabase::new().await;
    let (pool, org) = (db.pool(), funded(&db, 0).await);
    let forever = post(pool, org, "grant", 100, None, 0).await;
    let late = post(pool, org, "grant", 100, Some(20), 1).await;
    let early = post(pool, org, "grant", 100, Some(10), 2).await;
    assert!(forever.is_some() && late.is_some() && early.is_some());
    let hold = reserve(pool, org, 130, minute(3)).await.unwrap();
    settle(pool, org, hold, 130, 4).await;
    assert_eq!(expire(&db, org, 9).await, 0, "100 of the early one and 30 of the late one are burned");
    let lots: Vec<i64> = left(pool, org).await.into_iter().map(|(_, left)| left).collect();
    assert_eq!(lots, [0, 70]);
    assert_eq!((expire(&db, org, 10).await, available(&db, org).await), (0, 170));
    assert_eq!((expire(&db, org, 20).await, available(&db, org).await), (70, 100));
    assert_eq!((expire(&db, org, 99).await, available(&db, org).await), (0, 100));
    let taken: Vec<(i64, Option<Uuid>, Option<String>)> =
        sqlx::query_as("select amount, related_entry, actor from entry where kind = 'expire'")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(taken, [(-70, late.map(EntryId::as_uuid), Some("tollgate:expiry".into()))]);
    let attributed: bool =
        sqlx::query_scalar("select not exists (select from credit_pool)").fetch_one(pool).await.unwrap();
    assert!(attributed, "nothing can run out any more: its entries are not attributed any more");
}

#[tokio::test]
async fn what_open_tasks_hold_from_before_the_end_is_kept_for_them() {
    let db = TestDatabase::new().await;
    let (pool, org) = (db.pool(), funded(&db, 0).await);
    post(pool, org, "grant", 100, None, 0).await.unwrap();
    post(pool, org, "grant", 100, Some(10), 0).await.unwrap();
    let [cheap, failing] =
        [reserve(pool, org, 30, minute(1)).await.unwrap(), reserve(pool, org, 50, minute(2)).await.unwrap()];
    let later = reserve(pool, org, 60, minute(11)).await.unwrap();
    assert_eq!((expire(&db, org, 12).await, available(&db, org).await), (20, 40));
    settle(pool, org, cheap, 10, 13).await;
    assert_eq!(
        (expire(&db, org, 14).await, available(&db, org).await),
        (20, 40),
        "of 30 held 10 were burned"
    );
    step(pool, org, failing, "refuse", None, minute(15)).await;
    assert_eq!((expire(&db, org, 16).await, available(&db, org).await), (50, 40));
    settle(pool, org, later, 60, 17).await;
    assert_eq!((expire(&db, org, 18).await, available(&db, org).await), (0, 40));
}

#[tokio::test]
async fn nothing_is_taken_back_that_is_not_there_until_it_is() {
    let db = TestDatabase::new().await;
    let (pool, org) = (db.pool(), funded(&db, 0).await);
    post(pool, org, "grant", 100, Some(10), 0).await.unwrap();
    // The grant has ended, but the job has not come by yet.
    let hold = reserve(pool, org, 80, minute(11)).await.unwrap();
    assert_eq!((expire(&db, org, 12).await, available(&db, org).await), (20, 0));
    settle(pool, org, hold, 80, 13).await;
    assert_eq!((expire(&db, org, 14).await, available(&db, org).await), (0, 0));
    post(pool, org, "grant", 50, None, 15).await.unwrap();
    assert_eq!((expire(&db, org, 16).await, available(&db, org).await), (50, 0));
    post(pool, org, "grant", 50, None, 17).await.unwrap();
    assert_eq!((expire(&db, org, 18).await, available(&db, org).await), (30, 20));
    assert_eq!((expire(&db, org, 19).await, available(&db, org).await), (0, 20));
}

#[tokio::test]
async fn a_locked_row_keeps_no_other_grant_from_its_end() {
    let db = TestDatabase::new().await;
    let mut orgs = Vec::new();
    for _ in 0..12 {
        let org = funded(&db, 100).await;
        post(db.pool(), org, "grant", 10, Some(1), 0).await.unwrap();
        orgs.push(org);
    }
    let mut somebody = db.pool().begin().await.unwrap();
    let lock = sqlx::query("select from org_balance where org_id = $1 for update").bind(orgs[0].as_uuid());
    lock.execute(&mut *somebody).await.unwrap();
    let locked = db.database().expire_credits().await;
    assert!(locked.as_ref().is_err_and(StoreError::is_time_out), "{locked:?}");
    for org in &orgs[1..] {
        assert_eq!(available(&db, *org).await, 100);
    }
    somebody.rollback().await.unwrap();
    assert_eq!(db.database().expire_credits().await.unwrap(), credits(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_gateways_take_back_at_once_and_once() {
    let db = TestDatabase::new().await;
    let mut orgs = Vec::new();
    for _ in 0..5 {
        let org = funded(&db, 100).await;
        for ends in 1..=4 {
            post(db.pool(), org, "grant", 10, Some(ends), 0).await.unwrap();
        }
        orgs.push(org);
    }
    let jobs = (0..8).map(|_| db.database().expire_credits());
    let taken = futures_util::future::try_join_all(jobs).await.unwrap();
    assert_eq!(taken.iter().map(|taken| taken.get()).sum::<i64>(), 200);
    for org in orgs {
        assert_eq!(available(&db, org).await, 100);
    }
}

// The property: any history agrees with a replay of its journal.

#[derive(Debug, Clone)]
enum Op {
    Grant {
        amount: i64,
        ends_in: Option<i64>,
    },
    Adjust(i64),
    Overdraft(i64),
    Reserve(i64),
    Settle {
        hold: prop::sample::Index,
        charge: i64,
    },
    Release(prop::sample::Index),
    /// Of a released one: it came to light after its end, and is charged.
    Late {
        hold: prop::sample::Index,
        charge: i64,
    },
    Pass(i64),
    /// Attributes so many entries, and takes back if those were all.
    Expire(i32),
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (1i64..100, prop::option::weighted(0.8, -1i64..15)).prop_map(|(amount, ends_in)| Op::Grant { amount, ends_in }),
        2 => (-60i64..60).prop_map(Op::Adjust),
        1 => (0i64..60).prop_map(Op::Overdraft),
        5 => (0i64..90).prop_map(Op::Reserve),
        4 => (index(), 0i64..120).prop_map(|(hold, charge)| Op::Settle { hold, charge }),
        3 => index().prop_map(Op::Release),
        1 => (index(), 0i64..120).prop_map(|(hold, charge)| Op::Late { hold, charge }),
        5 => (1i64..6).prop_map(Op::Pass),
        4 => prop_oneof![Just(1000), 1..4].prop_map(Op::Expire),
    ]
}

/// One line of the journal.
#[derive(Debug, Clone, Copy)]
enum Written {
    Lot { id: Uuid, amount: i64, ends: i64 },
    Credit(i64),
    Debit { amount: i64, spent: i64 },
    Expired { id: Uuid, amount: i64 },
}

#[derive(Debug, Clone, Copy)]
struct Lot {
    id: Uuid,
    ends: i64,
    left: i64,
}

#[derive(Debug, Default)]
struct Reference {
    now: i64,
    overdraft: i64,
    available: i64,
    journal: Vec<Written>,
    /// Made when, of how much; none: it is over.
    holds: Vec<(HoldId, i64, Option<i64>)>,
    released: Vec<(HoldId, i64)>,
    unattributed: i64,
}

impl Reference {
    fn write(&mut self, line: Written) {
        self.available += match line {
            Written::Lot { amount, .. } | Written::Credit(amount) => amount,
            Written::Debit { amount, .. } | Written::Expired { amount, .. } => -amount,
        };
        if !matches!(line, Written::Expired { .. }) {
            self.unattributed += 1;
        }
        self.journal.push(line);
    }

    /// From the first line on, credit by credit.
    fn replay(&self) -> (Vec<Lot>, i64) {
        let (mut lots, mut pool) = (Vec::<Lot>::new(), 0);
        for line in &self.journal {
            match *line {
                Written::Credit(amount) => pool += amount,
                Written::Lot { id, mut amount, ends } => {
                    while pool < 0 && amount > 0 {
                        (pool, amount) = (pool + 1, amount - 1);
                    }
                    lots.push(Lot { id, ends, left: amount });
                    lots.sort_by_key(|lot| (lot.ends, lot.id));
                }
                Written::Debit { amount, spent } => {
                    for _ in 0..amount {
                        match lots.iter_mut().find(|lot| lot.ends > spent && lot.left > 0) {
                            Some(lot) => lot.left -= 1,
                            None => pool -= 1,
                        }
                    }
                }
                Written::Expired { id, amount } => {
                    lots.iter_mut().find(|lot| lot.id == id).unwrap().left -= amount;
                }
            }
        }
        (lots, pool)
    }

    /// Hold by hold.
    fn expire(&mut self) -> i64 {
        let (lots, _) = self.replay();
        let mut open: Vec<(i64, i64)> =
            self.holds.iter().filter_map(|&(_, amount, made)| made.map(|made| (made, amount))).collect();
        let (now, before) = (self.now, self.available);
        for lot in lots.into_iter().filter(|lot| lot.ends <= now) {
            let mut spare = lot.left;
            for (made, amount) in &mut open {
                if *made < lot.ends {
                    let kept = spare.min(*amount);
                    (spare, *amount) = (spare - kept, *amount - kept);
                }
            }
            let amount = spare.min(self.available.max(0));
            if amount > 0 {
                self.write(Written::Expired { id: lot.id, amount });
            }
        }
        assert!(self.available >= before.min(0));
        before - self.available
    }
}

async fn play(db: &TestDatabase, ops: &[Op]) -> Result<(), TestCaseError> {
    let (pool, org) = (db.pool(), funded(db, 0).await);
    let mut model = Reference::default();
    for (n, op) in ops.iter().enumerate() {
        let now = model.now;
        match op {
            Op::Grant { amount, ends_in } => {
                let ends = ends_in.map(|ends_in| now + ends_in);
                let posted = post(pool, org, "grant", *amount, ends, now).await;
                prop_assert_eq!(posted.is_some(), ends.is_none_or(|ends| ends > now));
                if let Some(entry) = posted {
                    let id = entry.as_uuid();
                    model.write(ends.map_or(Written::Credit(*amount), |ends| Written::Lot {
                        id,
                        amount: *amount,
                        ends,
                    }));
                }
            }
            Op::Adjust(amount) => {
                let posted = post(pool, org, "adjust", *amount, None, now).await;
                prop_assert_eq!(
                    posted.is_some(),
                    *amount >= 0 || model.available + amount >= -model.overdraft
                );
                if posted.is_some() {
                    model.write(if *amount < 0 {
                        Written::Debit { amount: -amount, spent: now }
                    } else {
                        Written::Credit(*amount)
                    });
                }
            }
            Op::Overdraft(overdraft) => {
                sqlx::query("update org_balance set overdraft = $2 where org_id = $1")
                    .bind(org.as_uuid())
                    .bind(*overdraft)
                    .execute(pool)
                    .await
                    .unwrap();
                model.overdraft = *overdraft;
            }
            Op::Reserve(amount) => {
                let granted = reserve(pool, org, *amount, minute(now)).await;
                prop_assert_eq!(granted.is_some(), model.available - amount >= -model.overdraft);
                if let Some(hold) = granted {
                    model.available -= amount;
                    model.holds.push((hold, *amount, Some(now)));
                }
            }
            Op::Settle { hold, charge } if !model.holds.is_empty() => {
                let place = hold.index(model.holds.len());
                let (hold, amount, made) = model.holds[place];
                if let Some(made) = made {
                    settle(pool, org, hold, *charge, now).await;
                    model.holds[place].2 = None;
                    model.available += amount;
                    model.write(Written::Debit { amount: *charge, spent: made });
                }
            }
            Op::Release(hold) if !model.holds.is_empty() => {
                let place = hold.index(model.holds.len());
                let (hold, amount, made) = model.holds[place];
                if let Some(made) = made {
                    step(pool, org, hold, "refuse", None, minute(now)).await;
                    model.holds[place].2 = None;
                    model.available += amount;
                    model.released.push((hold, made));
                }
            }
            Op::Late { hold, charge } if !model.released.is_empty() => {
                let place = hold.index(model.released.len());
                let (hold, made) = model.released.swap_remove(place);
                step(pool, org, hold, "late_run", None, minute(now)).await;
                step(pool, org, hold, "late_settle", Some(*charge), minute(now)).await;
                model.write(Written::Debit { amount: *charge, spent: made });
            }
            Op::Settle { .. } | Op::Release(_) | Op::Late { .. } => {}
            Op::Pass(minutes) => model.now += minutes,
            Op::Expire(limit) => {
                // Entries from before the first grant that runs out, and from after the last one, are not waited for.
                let waiting: i64 = sqlx::query_scalar("select count(*) from credit_event where org_id = $1")
                    .bind(org.as_uuid())
                    .fetch_one(pool)
                    .await
                    .unwrap();
                let (more, expired): (bool, i64) =
                    sqlx::query_as("select more, expired from expire_credits($1, $2, 'test', $3)")
                        .bind(org.as_uuid())
                        .bind(*limit)
                        .bind(minute(now))
                        .fetch_one(pool)
                        .await
                        .unwrap();
                prop_assert_eq!(more, waiting >= i64::from(*limit), "operation {}", n);
                if !more {
                    prop_assert_eq!(expired, model.expire(), "operation {}: {:?}", n, model);
                    let (lots, _) = model.replay();
                    let expected: Vec<_> = lots.into_iter().map(|lot| (lot.id, lot.left)).collect();
                    prop_assert_eq!(left(pool, org).await, expected, "operation {}: {:?}", n, model);
                }
            }
        }
        prop_assert_eq!(available(db, org).await, model.available, "operation {}: {:?}", n, op);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_agrees_with_a_replay_of_its_journal() {
    let db = TestDatabase::new().await;
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let config =
            Config { cases: 120, max_shrink_iters: 500, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&prop::collection::vec(op(), 1..60), |ops| runtime.block_on(play(&db, &ops)))
            .unwrap();
    });
    let report = db.database().audit().await.unwrap();
    assert_eq!(report.breaches, []);
    assert!(report.entries > 300, "{}", report.entries);
}
