//! Steps that the database refuses for a reason that nobody foresaw: each is set aside and tried again now and then, so
//! that it is taken once the reason is gone, and delays nothing else until then.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::shares::{Share, Shares};
use crate::store::db::error::StoreError;
use crate::store::ledger::step_queue::StepItem;

/// The most steps that are set aside at a time; one organisation gets half of what is free. What finds no room is lost with an error in the log: the next poll of the task brings its end again, and a hold that stays
/// HELD is put in doubt once this gateway has ended.
const MOST: usize = 10_000;

/// A clone is cheap and shares the list.
#[derive(Debug, Clone)]
pub(in crate::store) struct SetAside(Arc<AsideList>);

#[derive(Debug)]
struct AsideList {
    list: Mutex<List>,
    places: Arc<Shares<OrgId>>,
}

#[derive(Default)]
struct List {
    /// Those that wait for their next attempt.
    waiting: Vec<StepItem>,
    /// The holds of all of them, also of those that are being tried.
    holds: HashSet<HoldId>,
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(&self.holds).finish()
    }
}

/// The mark of a step that is set aside, until it is done.
pub(in crate::store) struct AsideToken {
    list: SetAside,
    hold: HoldId,
    _place: Share<OrgId>,
}

impl SetAside {
    pub(super) fn new() -> Self {
        let shown = metrics::gauge!(m::LEDGER_SET_ASIDE);
        Self(Arc::new(AsideList { list: Mutex::default(), places: Shares::new(MOST, shown) }))
    }

    /// Whether a step for this hold is set aside.
    pub(in crate::store) fn has(&self, hold: HoldId) -> bool {
        self.list().holds.contains(&hold)
    }

    /// Sets a step aside, and answers its caller with the error.
    pub(super) fn keep(&self, mut item: StepItem, error: &Arc<sqlx::Error>) {
        let again = item.aside.is_some();
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let (kind, sqlstate) = (item.step.kind().as_str(), code.as_deref().unwrap_or("none"));
        item.answer(Err(StoreError::Database(error.clone())));
        if again {
            // A gauge shows them: a line for each of thousands, each minute, would drown the rest of the log.
            tracing::debug!(hold = %item.hold, org = %item.org, step = kind, sqlstate, %error, "a step stays set aside");
            self.list().waiting.push(item);
            return;
        }
        metrics::counter!(m::LEDGER_SETTINGS_ASIDE, "call" => "transition").increment(1);
        let mut list = self.list();
        if list.holds.contains(&item.hold) {
            // It is the end of the same task, reported once more.
            return;
        }
        let Some(place) = self.0.places.take(item.org, 1) else {
            tracing::error!(hold = %item.hold, org = %item.org, step = kind, sqlstate, %error, "a step that the database refuses is lost: too many are set aside");
            return;
        };
        tracing::error!(hold = %item.hold, org = %item.org, step = kind, sqlstate, %error, "the database refuses a step for a reason that nobody foresaw: it is set aside and tried again");
        list.holds.insert(item.hold);
        let token = AsideToken { list: self.clone(), hold: item.hold, _place: place };
        item.aside = Some(Box::new(token));
        list.waiting.push(item);
    }

    /// Takes all of them out for another attempt.
    pub(super) fn take(&self) -> Vec<StepItem> {
        std::mem::take(&mut self.list().waiting)
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AsideToken {
    fn drop(&mut self) {
        self.list.list().holds.remove(&self.hold);
    }
}
