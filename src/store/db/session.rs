//! The session settings of every connection: how long a statement may take, how long it may wait for a lock, and how
//! soon the server must notice that its client is gone.
//!
//! The deadline of a statement is kept on both sides. The server ends the statement a little before its caller gives
//! up, so that the connection stays usable and no backend works for a caller that has left. The caller's own deadline
//! is for a server, or a network, that has gone silent.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// How long the server may work on one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Deadline(Duration);

impl Deadline {
    /// The deadline of statements that a caller waits for.
    pub(in crate::store) const QUERY: Self = Self(Duration::from_millis(4_500));
    /// Pricing a month of tasks by another book reads each of the tasks.
    pub(in crate::store) const REPRICING: Self = Self(Duration::from_secs(59));
    /// Checking one invariant reads the whole ledger.
    pub(in crate::store) const INVARIANT: Self = Self(Duration::from_secs(600));
    /// Migrations, and what waits for them, have no deadline.
    pub(in crate::store) const UNBOUNDED: Self = Self(Duration::MAX);

    /// A call of a lane ends by the lane's own deadline, which drops the connection and sends the same ids again. This
    /// deadline only limits what the server does for a lane that is gone.
    pub(in crate::store) fn of_lane(call_timeout: Duration) -> Self {
        Self(call_timeout * 2)
    }

    /// How long the caller waits: a little longer than the server works, which by then has answered, if only with a
    /// time-out.
    pub(in crate::store) fn patience(self) -> Duration {
        self.0.saturating_add(Duration::from_millis(500))
    }

    /// The value of the setting `statement_timeout`.
    pub(in crate::store) fn setting(self) -> String {
        // PostgreSQL's word for no deadline is 0.
        let ms = if self == Self::UNBOUNDED { 0 } else { self.0.as_millis() };
        format!("{ms}ms")
    }
}

/// The longest time that a statement waits for a lock.
const LOCK_TIMEOUT: &str = "3s";

/// Adds the settings of every connection to its startup packet, so that `reset` restores them.
pub(in crate::store) fn settings(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("statement_timeout", Deadline::QUERY.setting().as_str()),
        ("lock_timeout", LOCK_TIMEOUT),
        // No lock is held between two statements. If a defect leaves a transaction open, the server ends it.
        ("idle_in_transaction_session_timeout", "5s"),
        // A backend whose client is gone stops working.
        ("client_connection_check_interval", "1s"),
        // A client whose host or network is gone is noticed within half a minute, even by an idle backend.
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "30s"),
        // Compiling a statement takes longer than running one of ours.
        ("jit", "off"),
        // No actor, until a change sets one.
        ("tollgate.audit", ""),
    ])
}

/// Restores the settings of a connection that returns to the pool, and shows that the connection is alive.
pub(in crate::store) const RESET: &str = "reset statement_timeout; reset tollgate.audit";

/// Sets what one statement needs: `$1` is its actor, `$2` its deadline.
pub(in crate::store) const PREPARE: &str =
    "select set_config('tollgate.audit', $1, false), set_config('statement_timeout', $2, false)";
