//! What can go wrong below, in the ledger's own words.

use std::sync::Arc;

use crate::store::db::servers::NoPrimary;

/// A failure of the ledger. None of them moves a credit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The reservation was not answered in time; if it is granted later it is released at once.
    #[error("the ledger did not answer in time")]
    Timeout,
    /// More requests wait than the ledger queues.
    #[error("the ledger's queue is full")]
    QueueFull,
    /// The gateway is stopping.
    #[error("the ledger is shutting down")]
    ShuttingDown,
    /// The database refused this very item; a defect or a broken row, logged where it happened.
    #[error("the database refused: {0}")]
    Refused(Arc<str>),
    /// The database gave no connection, or no answer, in time.
    #[error(
        "the database cannot be reached: is it running, is its URL right, does it take more connections?"
    )]
    Unreachable,
    /// No server takes writes: standbys, read-only servers, old primaries.
    #[error("no database server can be used: {0}")]
    NoPrimary(Arc<str>),
    /// The database could not be asked.
    #[error("database: {0}")]
    Database(#[from] Arc<sqlx::Error>),
    /// A row holds what no code of ours would have written.
    #[error("unreadable row: {0}")]
    Corrupt(&'static str),
    /// The schema cannot serve this version.
    #[error("{0}")]
    Schema(Arc<str>),
    /// The caller of an administrative operation asked for something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// What the caller of an administrative operation named is not there.
    #[error("{0}")]
    NotFound(String),
    /// What the caller of an administrative operation asked for does not go with what is there.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key of an administrative operation was used for another one.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// The same operation, by its idempotency key, is under way.
    #[error("a request with this idempotency key is being worked on")]
    InProgress,
    /// It was changed since the caller saw it.
    #[error("it was changed meanwhile: its version is {current} now")]
    Stale { current: i32 },
}

impl LedgerError {
    /// Whether the database refused a value the caller gave: out of range, no text it can store, against a rule.
    pub fn is_of_the_input(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let sqlx::Error::Database(error) = &**error else { return false };
        error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// Whether the database gave no answer in time, be it because others hold a lock.
    pub fn is_time_out(&self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable => true,
            Self::Database(error) => {
                error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("55P03"))
            }
            _ => false,
        }
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Configuration(why) = &error
            && let Some(NoPrimary(why)) = why.downcast_ref()
        {
            return Self::NoPrimary(why.clone());
        }
        match error {
            sqlx::Error::PoolTimedOut => Self::Unreachable,
            // the statement took longer than it may
            sqlx::Error::Database(e) if e.code().as_deref() == Some("57014") => Self::Timeout,
            other => Self::Database(Arc::new(other)),
        }
    }
}

/// What a failed batch allows next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Failure {
    /// Rolled back, and nobody's fault: send it again on the same connection.
    Retry,
    /// One of the items is at fault: send them one by one.
    Item,
    /// The outcome is unknown or the server cannot be used: reconnect, then send the same ids again.
    Connection,
}

pub(in crate::store) fn classify(error: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = error else {
        return Failure::Connection;
    };
    match database.code().as_deref().unwrap_or_default() {
        // serialization failure, deadlock, lock not available; disk full, out of memory, configured limit: the server
        // itself goes on
        "40001" | "40P01" | "55P03" | "53100" | "53200" | "53400" => Failure::Retry,
        // data exceptions, broken constraints and exceeded limits (a text too long for its index) belong to an item
        code if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Failure::Item,
        _ => Failure::Connection,
    }
}

pub(in crate::store) fn is_unique_violation(error: &sqlx::Error, index: &str) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.code().as_deref() == Some("23505") && e.constraint() == Some(index))
}
