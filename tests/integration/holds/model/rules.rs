//! What must come of it, by the reference model.

use std::collections::HashMap;

use tollgate::credits::PriceFactor;
use tollgate::store::{Applied, Balance, Late, State};

use super::histories::{Kind, Wish};
use crate::support::fixture::credits;

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) available: i128,
    pub(super) held: i128,
    pub(super) consumed: i128,
    pub(super) granted: i128,
    pub(super) overdraft: i128,
    pub(super) cap: i32,
    pub(super) holds: Vec<ModelHold>,
    /// Idempotency keys and the holds they are bound to.
    pub(super) keys: HashMap<u8, usize>,
}

#[derive(Debug)]
pub(super) struct ModelHold {
    pub(super) state: State,
    pub(super) amount: i128,
    pub(super) wish: Wish,
    pub(super) task: Option<u8>,
    pub(super) late: Option<Late>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Expected {
    Granted { available: i128 },
    Insufficient,
    TooManyTasks,
    KeyTaken,
    InDoubt,
    Refused,
}

pub(super) const MAX: i128 = i64::MAX as i128;
pub(super) const MIN: i128 = i64::MIN as i128;

impl Model {
    fn count(&self, states: &[State]) -> i32 {
        i32::try_from(self.holds.iter().filter(|hold| states.contains(&hold.state)).count()).unwrap()
    }

    fn open(&self) -> i32 {
        self.count(&[State::Held, State::Running])
    }

    /// Whether it is posted.
    pub(super) fn credit(&mut self, amount: i64) -> bool {
        let (available, granted) = (self.available + i128::from(amount), self.granted + i128::from(amount));
        // A correction is not of nothing.
        if amount == 0 || (amount < 0 && available < -self.overdraft) || available > MAX || granted > MAX {
            return false;
        }
        (self.available, self.granted) = (available, granted);
        true
    }

    pub(super) fn doubts(&self, wish: &Wish, hold: &ModelHold) -> bool {
        // One user makes them all, with one key or another.
        let same = hold.wish.body == wish.body;
        same && hold.state == State::InDoubt && hold.wish.idem.is_none()
    }

    pub(super) fn reserve(&mut self, wish: &Wish) -> Expected {
        let amount = i128::from(price(wish).0);
        if wish.idem.is_some_and(|key| self.keys.contains_key(&key)) {
            return Expected::KeyTaken;
        }
        if wish.guarded && self.holds.iter().any(|hold| self.doubts(wish, hold)) {
            return Expected::InDoubt;
        }
        if amount > self.available + self.overdraft {
            return Expected::Insufficient;
        }
        if self.cap > 0 && self.open() >= self.cap {
            return Expected::TooManyTasks;
        }
        if self.held + amount > MAX {
            return Expected::Refused;
        }
        self.available -= amount;
        self.held += amount;
        if let Some(key) = wish.idem {
            self.keys.insert(key, self.holds.len());
        }
        self.holds.push(ModelHold { state: State::Held, amount, wish: wish.clone(), task: None, late: None });
        Expected::Granted { available: self.available }
    }

    /// None: the database cannot represent the outcome, and nothing moves.
    pub(super) fn step(&mut self, index: usize, kind: &Kind) -> Option<Applied> {
        let hold = &self.holds[index];
        let (amount, wish) = (hold.amount, hold.wish.clone());
        if matches!(kind, Kind::LateRun(_) | Kind::LateSettle(_) | Kind::LateFail(_) | Kind::LateDrop) {
            return self.step_late(index, kind);
        }
        let to = match (hold.state, kind) {
            (State::Held | State::InDoubt, Kind::Run(_)) => State::Running,
            (State::Running | State::InDoubt, Kind::Settle(_)) => State::Settled,
            (State::Running | State::InDoubt, Kind::Fail(_))
            | (State::Held | State::InDoubt, Kind::Abandon) => State::Released,
            (State::Held | State::InDoubt, Kind::Refuse) => State::Released,
            (State::Held | State::Running, Kind::Doubt) => State::InDoubt,
            (State::InDoubt, Kind::WriteOff) => State::WrittenOff,
            _ => return Some(Applied::No),
        };
        if let Kind::Run(task) = kind {
            let task = hold.task.unwrap_or(*task);
            if self.holds.iter().enumerate().any(|(other, hold)| other != index && hold.task == Some(task)) {
                self.holds[index].state = State::InDoubt;
                return Some(Applied::DuplicateTask);
            }
            self.holds[index].task = Some(task);
        }
        if to.is_terminal() {
            let charge = match kind {
                Kind::Settle(raw) => i128::from(charge(&wish, *raw).1),
                _ => 0,
            };
            let available = self.available + amount - charge;
            if available < MIN || self.consumed + charge > MAX {
                return None;
            }
            self.available = available;
            self.held -= amount;
            self.consumed += charge;
            if matches!(kind, Kind::Refuse | Kind::Abandon) {
                self.keys.retain(|_, bound| *bound != index);
            }
        }
        self.holds[index].state = to;
        Some(Applied::Yes)
    }

    /// Evidence after the end: no state changes, and what is charged is charged by a correction.
    fn step_late(&mut self, index: usize, kind: &Kind) -> Option<Applied> {
        let hold = &self.holds[index];
        if !matches!(hold.state, State::Released | State::WrittenOff) {
            return Some(Applied::No);
        }
        let late = match (hold.late, kind) {
            (None, Kind::LateRun(task)) => {
                let task = hold.task.unwrap_or(*task);
                if self
                    .holds
                    .iter()
                    .enumerate()
                    .any(|(other, hold)| other != index && hold.task == Some(task))
                {
                    return Some(Applied::DuplicateTask);
                }
                self.holds[index].task = Some(task);
                Late::Open
            }
            (Some(Late::Open), Kind::LateSettle(raw)) => {
                let charge = i128::from(charge(&hold.wish, *raw).1);
                if self.available - charge < MIN || self.consumed + charge > MAX {
                    return None;
                }
                self.available -= charge;
                self.consumed += charge;
                Late::Charged
            }
            (Some(Late::Open), Kind::LateFail(_)) => Late::Lost,
            (Some(Late::Open), Kind::LateDrop) => Late::GivenUp,
            _ => return Some(Applied::No),
        };
        self.holds[index].late = Some(late);
        Some(Applied::Yes)
    }

    pub(super) fn balance(&self) -> Balance {
        let amount = |figure: i128| credits(i64::try_from(figure).unwrap());
        Balance {
            available: amount(self.available),
            held: amount(self.held),
            consumed: amount(self.consumed),
            granted: amount(self.granted),
            overdraft: amount(self.overdraft),
            open_tasks: self.open(),
            in_doubt: self.count(&[State::InDoubt]),
        }
    }
}

/// Amount, list price, factor. What does not fit is asked for at list price.
pub(super) fn price(wish: &Wish) -> (i64, i64, PriceFactor) {
    let factor = PriceFactor::new(wish.factor_bp).unwrap();
    match factor.apply(credits(wish.list)) {
        Some(amount) => (amount.get(), wish.list, factor),
        None => (wish.list, wish.list, PriceFactor::LIST),
    }
}

/// What the upstream says it consumed, and the charge; never more than can be charged at all.
pub(super) fn charge(wish: &Wish, raw: i64) -> (i64, i64) {
    let (_, _, factor) = price(wish);
    factor
        .apply(credits(raw))
        .map_or((1, factor.apply(credits(1)).unwrap().get()), |charge| (raw, charge.get()))
}
