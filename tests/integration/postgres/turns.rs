//! A pool that owners share.

use futures_util::poll;
use tollgate::secret::Secret;
use tollgate::store::{Database, SharedDatabase};

use crate::support::database::{PATIENCE, TestDatabase};

#[tokio::test]
async fn nobody_takes_all_turns_at_a_pool_and_those_who_wait_have_turns() {
    let db = TestDatabase::new().await;
    let pool = Database::connect(&Secret::new(db.url().to_owned()), 4, PATIENCE).unwrap();
    let shared = SharedDatabase::<u8>::new(pool);
    let mut greedy = vec![shared.turn_of(1).await.unwrap(), shared.turn_of(1).await.unwrap()];
    let mut more: Vec<_> = (0..50).map(|_| Box::pin(shared.turn_of(1))).collect();
    for waiting in &mut more {
        assert!(poll!(waiting).is_pending(), "half of the pool is the most for one");
    }
    let other = shared.turn_of(2).await.unwrap();
    other.ping().await.unwrap();
    let mut third = Box::pin(shared.turn_of(3));
    assert!(poll!(&mut third).is_ready(), "there is always one for somebody new");
    greedy.pop();
    let next = poll!(&mut more[0]);
    assert!(next.is_ready());
    assert!(poll!(&mut more[1]).is_pending());
}

/// Also when the turn itself is gone: the handle still uses its connections.
#[tokio::test]
async fn a_turn_lasts_as_long_as_a_handle_that_was_made_from_it() {
    let db = TestDatabase::new().await;
    let pool = Database::connect(&Secret::new(db.url().to_owned()), 2, PATIENCE).unwrap();
    let shared = SharedDatabase::<u8>::new(pool);
    let turn = shared.turn_of(1).await.unwrap();
    let handle = Database::clone(&turn);
    drop(turn);
    let mut next = Box::pin(shared.turn_of(1));
    assert!(poll!(&mut next).is_pending(), "the handle is its turn");
    drop(handle);
    assert!(poll!(&mut next).is_ready());
}
