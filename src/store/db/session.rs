//! What every connection of ours tells the server: how long a statement may take, how long it may wait for a lock, and
//! how soon the server must notice that nobody is there any more.
//!
//! The deadline stands on both sides. The server ends a statement a little before its caller gives up, so that the
//! connection comes back whole and no backend works on for nobody; the caller's own deadline is for a server, or a
//! network, that has gone silent.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// How long the server may work on one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Deadline(Duration);

impl Deadline {
    /// What callers wait for.
    pub(in crate::store) const QUERY: Self = Self(Duration::from_millis(4_500));
    /// Counting what was spent in a budget's window looks at each of its tasks.
    pub(in crate::store) const COUNTING: Self = Self(Duration::from_secs(55));
    /// Pricing a month of tasks anew looks at each of them.
    pub(in crate::store) const REPRICING: Self = Self(Duration::from_secs(59));
    /// One invariant over the whole ledger.
    pub(in crate::store) const INVARIANT: Self = Self(Duration::from_secs(600));
    /// Migrations and what waits for them take as long as they take.
    pub(in crate::store) const UNBOUNDED: Self = Self(Duration::ZERO);

    /// A call of a lane ends by its lane's own deadline, which drops the connection and sends the same ids again; this
    /// only bounds what the server does for a lane that is gone.
    pub(in crate::store) fn of_lane(call_timeout: Duration) -> Self {
        Self(call_timeout * 2)
    }

    /// After this the caller gives up. The server should have answered, if only to say that it took too long.
    pub(in crate::store) fn patience(self) -> Duration {
        self.0 + Duration::from_millis(500)
    }

    /// The value of `statement_timeout`.
    pub(in crate::store) fn setting(self) -> String {
        format!("{}ms", self.0.as_millis())
    }
}

/// No statement waits longer for a lock that another one holds.
const LOCK_TIMEOUT: &str = "3s";

/// Settings that every connection begins with, by its startup packet: `reset` brings them back.
pub(in crate::store) fn settings(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("statement_timeout", Deadline::QUERY.setting().as_str()),
        ("lock_timeout", LOCK_TIMEOUT),
        // No lock of ours is held between two statements; should one be, it does not last.
        ("idle_in_transaction_session_timeout", "5s"),
        // A backend whose client is gone stops working.
        ("client_connection_check_interval", "1s"),
        // A client whose host or network is gone is noticed within half a minute, also by an idle backend.
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "30s"),
        // On whose behalf: nobody's, until a change says so.
        ("tollgate.audit", ""),
    ])
}

/// Brings a connection that comes back to the pool to its first settings, and shows that it is alive.
pub(in crate::store) const RESET: &str = "reset statement_timeout; reset tollgate.audit";

/// Tells a connection what one statement is for: `$1` its actor, `$2` its deadline.
pub(in crate::store) const PREPARE: &str =
    "select set_config('tollgate.audit', $1, false), set_config('statement_timeout', $2, false)";
