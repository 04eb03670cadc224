//! The simulator's own books: which account really consumed what.
//!
//! Tests hold the gateway's ledger against these, so they always tell the truth, whatever a script makes the
//! answers say.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::clock::Millis;
use super::request::Draft;
use super::task::{Outcome, Task, TaskState};

/// Enough shards that two cores rarely wait for the same one.
const SHARDS: usize = 64;

type Shard = HashMap<Arc<str>, Arc<Task>>;

pub(super) struct Books {
    accounts: HashMap<Arc<str>, AccountBooks>,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

struct AccountBooks {
    /// False for an account that is known from the state file only: it stays in the books, but its key is refused.
    open: bool,
    creates_received: AtomicU64,
}

impl Books {
    pub(super) fn new(master_keys: &[String], replayed: Vec<Task>) -> Books {
        let account = |open| AccountBooks { open, creates_received: AtomicU64::new(0) };
        let mut accounts: HashMap<Arc<str>, AccountBooks> =
            master_keys.iter().map(|key| (Arc::from(key.as_str()), account(true))).collect();
        for task in &replayed {
            if !accounts.contains_key(&task.account) {
                accounts.insert(Arc::clone(&task.account), account(false));
            }
        }
        let books = Books {
            accounts,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        };
        for mut task in replayed {
            // Every line brought its own copy of the key; share one instead.
            if let Some((name, _)) = books.accounts.get_key_value(&task.account) {
                task.account = Arc::clone(name);
            }
            books.shard(&task.task_id).insert(Arc::clone(&task.task_id), Arc::new(task));
        }
        books
    }

    /// The account behind a bearer key, if the key is one of the master keys.
    pub(super) fn account(&self, key: &str) -> Option<&Arc<str>> {
        self.accounts.get_key_value(key).filter(|(_, account)| account.open).map(|(name, _)| name)
    }

    pub(super) fn count_create(&self, account: &str) {
        if let Some(account) = self.accounts.get(account) {
            account.creates_received.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a task; returns it if its id is taken.
    pub(super) fn add(&self, task: Task) -> Result<Arc<Task>, Task> {
        match self.shard(&task.task_id).entry(Arc::clone(&task.task_id)) {
            Entry::Occupied(_) => Err(task),
            Entry::Vacant(slot) => Ok(Arc::clone(slot.insert(Arc::new(task)))),
        }
    }

    pub(super) fn task(&self, task_id: &str) -> Option<Arc<Task>> {
        self.shard(task_id).get(task_id).cloned()
    }

    fn shard(&self, task_id: &str) -> MutexGuard<'_, Shard> {
        let slot = self.hasher.hash_one(task_id) % SHARDS as u64;
        // Nothing can panic while a shard is locked, and a map with a lost insert would still be usable.
        self.shards[slot as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, or one account, as `GET /_sim/books` shows it; oldest task first.
    pub(super) fn read(&self, only: Option<&str>, with_tasks: bool, now: Millis) -> BooksView {
        let mut views: HashMap<&str, AccountView> = self
            .accounts
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == &***name))
            .map(|(name, account)| {
                let view = AccountView {
                    account: Arc::clone(name),
                    consumed: 0,
                    creates_received: account.creates_received.load(Ordering::Relaxed),
                    counts: TaskCounts::default(),
                    tasks: with_tasks.then(Vec::new),
                };
                (&**name, view)
            })
            .collect();
        for shard in &self.shards {
            // Copying out the handles is all that happens under the lock.
            let tasks: Vec<Arc<Task>> =
                shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            for task in tasks {
                if let Some(view) = views.get_mut(&*task.account) {
                    view.count(task, now);
                }
            }
        }
        let mut accounts: Vec<AccountView> = views.into_values().collect();
        accounts.sort_by(|a, b| a.account.cmp(&b.account));
        for account in &mut accounts {
            if let Some(tasks) = &mut account.tasks {
                tasks.sort_by(|a, b| (a.created_ms, &a.task_id).cmp(&(b.created_ms, &b.task_id)));
            }
        }
        BooksView { accounts }
    }
}

#[derive(Serialize)]
pub(super) struct BooksView {
    accounts: Vec<AccountView>,
}

#[derive(Serialize)]
struct AccountView {
    account: Arc<str>,
    consumed: i64,
    creates_received: u64,
    counts: TaskCounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<TaskView>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct TaskCounts {
    #[serde(rename = "IN_PROGRESS")]
    in_progress: u64,
    success: u64,
    failed: u64,
}

#[derive(Serialize)]
struct TaskView {
    task_id: Arc<str>,
    status: &'static str,
    consumed_credits: i64,
    polls: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Tells whose task it is: callers can mark their prompts, ids are the vendor's.
    prompt: Option<String>,
    created_ms: Millis,
}

impl AccountView {
    fn count(&mut self, task: Arc<Task>, now: Millis) {
        let state = task.state(now);
        let consumed = task.consumed(now);
        self.consumed = self.consumed.saturating_add(consumed);
        match state {
            TaskState::InProgress => self.counts.in_progress += 1,
            TaskState::Ended(Outcome::Success) => self.counts.success += 1,
            TaskState::Ended(Outcome::Failed) => self.counts.failed += 1,
        }
        if let Some(tasks) = &mut self.tasks {
            tasks.push(TaskView {
                task_id: Arc::clone(&task.task_id),
                status: state.word(),
                consumed_credits: consumed,
                polls: task.polls.load(Ordering::Relaxed),
                kind: task.product.name,
                prompt: Draft::read(task.request.get().as_bytes()).text("prompt"),
                created_ms: task.created,
            });
        }
    }
}
