//! Named steps of a task's life at which a test may kill, stop or break this process. Release builds have none.
//!
//! `TOLLGATE_FAIL_POINT="create.answered=kill"` names one step and what happens when it is first reached: `kill`
//! (SIGKILL, as a crash would), `stop` (SIGSTOP, until somebody sends SIGCONT) or `panic`.
//!
//! | Step | Where |
//! |---|---|
//! | `reserve.before` | before a batch of reservations is sent to the database |
//! | `reserve.committed` | the batch is durable; its creates have no verdict yet |
//! | `create.held` | the create's own task begins; nothing is sent |
//! | `create.before_send` | before the first byte is written and before the last check of the lease |
//! | `create.sent` | the request has been handed to its connection |
//! | `create.head` | the head of the vendor's answer has arrived |
//! | `create.answered` | the outcome is known; nothing is recorded |
//! | `record.committed` | the task's id is durable; the client has no answer |
//! | `poll.before` | before the vendor is asked for a task |
//! | `poll.answered` | the vendor has reported the end; nothing is settled |
//! | `settle.committed` | the end is durable; its caller has no answer yet |
//! | `budget.counting` | a step of a budget's count is committed |
//! | `archive.moved` | a month has left for its archive, or come back; nothing is committed |
//! | `archive.committed` | that is committed |
//! | `sweep.before` | the holds of dead gateways are known; none is taken over |

/// Marks that the step `name` is reached.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &'static str) {}

/// Marks that the step `name` is reached.
#[cfg(debug_assertions)]
pub fn reach(name: &'static str) {
    armed::reach(name);
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill, raise};
    use nix::unistd::Pid;

    static PLAN: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
        let plan = std::env::var("TOLLGATE_FAIL_POINT").ok()?;
        let (name, action) = plan.split_once('=')?;
        Some((name.to_owned(), action.to_owned()))
    });
    static DONE: AtomicBool = AtomicBool::new(false);

    pub(super) fn reach(name: &'static str) {
        let Some((wanted, action)) = &*PLAN else { return };
        if wanted != name || DONE.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(name, action, "a fail point is reached");
        crate::log_queue::flush(Duration::from_secs(1));
        match action.as_str() {
            "kill" => drop(kill(Pid::this(), Signal::SIGKILL)),
            // `raise` stops this very thread at once; a signal to the process might reach another thread first.
            "stop" => drop(raise(Signal::SIGSTOP)),
            _ => panic!("fail point {name}"),
        }
    }
}
