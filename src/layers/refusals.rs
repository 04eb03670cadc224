//! The last create of each user that was refused, so that a newcomer is told what was wrong with it: such a create leaves no trace in
//! the ledger. Kept in memory for some minutes, by the gateway that refused it.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::clock::Clock;
use crate::error::GatewayError;
use crate::ids::{OrgId, UserId};

/// How long a refusal is told of.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// The most refusals that are kept, and for how many users of one organisation: two of its users may have one place.
const MOST: u64 = 10_000;
const PLACES: u128 = 100;

/// A storm of refusals for one reason is noted this often.
const PAUSE: time::Duration = time::Duration::SECOND;

/// A create that was refused.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LastRefusal {
    /// The HTTP status of the answer.
    status: u16,
    /// The code of the error; null: the vendor has refused it in its own words.
    code: Option<&'static str>,
    message: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

#[derive(Debug)]
pub struct Refusals(Cache<(OrgId, u128), (UserId, Arc<LastRefusal>)>);

impl Refusals {
    pub fn new() -> Self {
        Self(Cache::builder().max_capacity(MOST).time_to_live(KEPT).build())
    }

    /// Notes a create that was refused by what its caller can change.
    pub fn note(&self, org: OrgId, user: UserId, error: &GatewayError) {
        let status = error.status();
        if !status.is_client_error() {
            return;
        }
        let (code, at) = (error.code().map(crate::wire::Code::as_str), Clock.wall());
        if self.last(org, user).is_some_and(|last| last.code == code && at - last.at < PAUSE) {
            return;
        }
        let refused = LastRefusal { status: status.as_u16(), code, message: error.to_string(), at };
        self.0.insert(place(org, user), (user, Arc::new(refused)));
    }

    pub fn last(&self, org: OrgId, user: UserId) -> Option<Arc<LastRefusal>> {
        self.0.get(&place(org, user)).filter(|(of, _)| *of == user).map(|(_, last)| last)
    }
}

fn place(org: OrgId, user: UserId) -> (OrgId, u128) {
    (org, user.as_uuid().as_u128() % PLACES)
}

impl Default for Refusals {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_one_organisation_displace_nobody_elses() {
        let (refusals, error) = (Refusals::new(), GatewayError::Suspended);
        let (crowd, other, somebody) = (OrgId::generate(), OrgId::generate(), UserId::generate());
        refusals.note(other, somebody, &error);
        for _ in 0..2 * MOST {
            refusals.note(crowd, UserId::generate(), &error);
        }
        refusals.0.run_pending_tasks();
        assert!(refusals.0.entry_count() <= 101, "{}", refusals.0.entry_count());
        assert_eq!(refusals.last(other, somebody).map(|last| last.status), Some(error.status().as_u16()));
    }
}
