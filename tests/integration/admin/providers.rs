//! Edits of an identity provider while others edit it.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tollgate::store::{ProviderSpec, StoreError};

use crate::support::database::TestDatabase;
use crate::support::identity_provider::{AUDIENCE, ISSUER};

/// An edit that loses to somebody else's change in each of its first `lost` tries, and how many tries it made.
async fn edit_behind(lost: u32) -> (Result<u32, StoreError>, u32) {
    let db = TestDatabase::new().await;
    let url = "https://id.example.test/keys".parse().unwrap();
    let spec = ProviderSpec::new("contended", None, ISSUER, AUDIENCE, url);
    let id = db.database().create_provider(&spec).await.unwrap();
    let tries = AtomicU32::new(0);
    let edited = db
        .database()
        .edit_provider(id, None, |spec| {
            spec.leeway_seconds = 7;
            if tries.fetch_add(1, Ordering::Relaxed) < lost {
                let other = sqlx::query("update identity_provider set user_claim = user_claim || 'x'");
                block_in_place(|| Handle::current().block_on(other.execute(db.pool()))).unwrap();
            }
        })
        .await;
    let now = db.database().provider(id).await.unwrap().unwrap();
    let tries = tries.into_inner();
    match &edited {
        Ok(edited) => {
            let both = ("x".repeat(lost as usize), 7);
            let claim = now.spec.user_claim.trim_start_matches("sub").to_owned();
            assert_eq!((claim, now.spec.leeway_seconds), both, "neither change is lost");
            assert_eq!(edited.version, now.version);
        }
        Err(StoreError::Stale { current }) => {
            assert_eq!((*current, now.spec.leeway_seconds), (now.version, spec.leeway_seconds));
        }
        Err(other) => panic!("{other:?}"),
    }
    (edited.map(|edited| edited.spec.leeway_seconds), tries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_a_provider_is_tried_again_after_somebody_elses() {
    let (edited, tries) = edit_behind(2).await;
    assert_eq!((edited.unwrap(), tries), (7, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_a_provider_that_always_loses_ends() {
    // Without an end it would be tried a hundred times before it gets through.
    let (edited, tries) = edit_behind(100).await;
    assert!(matches!(edited, Err(StoreError::Stale { .. })) && tries < 10, "{edited:?} after {tries} tries");
}
