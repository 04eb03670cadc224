//! What real HTTP clients do when they want a task: they give up before the vendor has answered and send the same body again, to
//! whichever gateway is next, perhaps with another key of their user; they close their own direction; they leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::{Create, Customers, Load, Manner, Reply};

/// How long the vendor takes for a create while these customers are there.
pub const VENDOR_TAKES: Duration = Duration::from_millis(2000);

/// The time-out of clients that give up too early.
const SHORT: Duration = Duration::from_millis(300);

/// From this time on the vendor may have answered. Whoever has no key, and is cut off after it, does not know whether its answer was
/// on the way, and nor does a gateway: it asks for a list of its tasks, and does not create again.
const PERHAPS_ANSWERED: Duration = Duration::from_millis(1500);

/// The most times that a customer sends one create.
const TRIES: usize = 12;

/// A habit.
#[derive(Debug, Clone, Copy)]
struct Habit {
    keyed: bool,
    /// How many of its first requests end by a time-out of its own.
    hasty: usize,
    /// Never comes back after it has left.
    leaves: bool,
    /// Every request after the first goes by the other key.
    changes_key: bool,
    half_closes: bool,
}

const PLAIN: Habit = Habit { keyed: false, hasty: 0, leaves: false, changes_key: false, half_closes: false };

const HABITS: [Habit; 12] = [
    PLAIN,
    Habit { keyed: true, ..PLAIN },
    Habit { hasty: 1, ..PLAIN },
    Habit { hasty: 2, ..PLAIN },
    Habit { hasty: 1, keyed: true, ..PLAIN },
    Habit { hasty: 1, changes_key: true, ..PLAIN },
    Habit { hasty: 2, changes_key: true, keyed: true, ..PLAIN },
    Habit { changes_key: true, ..PLAIN },
    Habit { half_closes: true, ..PLAIN },
    Habit { half_closes: true, keyed: true, changes_key: true, ..PLAIN },
    Habit { hasty: 1, leaves: true, ..PLAIN },
    Habit { hasty: 1, leaves: true, keyed: true, ..PLAIN },
];

impl Customers {
    /// Starts so many customers a second, who have these habits in turn.
    pub fn start_with_habits(self: &Arc<Self>, rate: u32) -> Load {
        let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        self.start_each(rate, move |customers, gateway| {
            let turn = turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut create = customers.next(0);
            // Other than the number of gateways, so that each habit begins at each of them.
            let habit = HABITS[turn / customers.gateways.len() % HABITS.len()];
            create.key = habit.keyed.then(|| format!("habit-{turn}"));
            async move { customers.want(create, gateway, habit).await }
        })
    }

    async fn want(&self, mut create: Create, first: usize, habit: Habit) {
        let perhaps_answered_at = Instant::now() + PERHAPS_ANSWERED;
        let mut doubts = 0;
        for attempt in 0..TRIES {
            let manner = Manner {
                patience: (attempt < habit.hasty).then_some(SHORT),
                another_key: habit.changes_key && attempt > 0,
                half_close: habit.half_closes,
            };
            let reply = self.send_so(&mut create, (first + attempt) % self.gateways.len(), manner).await;
            let no_answer = reply == Reply::NoAnswer;
            let perhaps_answered = create.key.is_none() && Instant::now() > perhaps_answered_at;
            if no_answer && (habit.leaves || perhaps_answered) {
                break;
            }
            let doubt = matches!(reply, Reply::Unknown(_));
            doubts += usize::from(doubt);
            // A doubt is asked about once more, elsewhere.
            if !(reply.says_try_again() || doubt && doubts == 1) {
                break;
            }
            // As clients do between tries.
            tokio::time::sleep(Duration::from_millis(50 << attempt.min(4))).await;
        }
        self.note(create);
    }
}
