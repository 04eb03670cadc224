//! The errors of the store, without HTTP: the layers above turn them into answers.

use std::borrow::Cow;
use std::sync::Arc;

use crate::https;

/// An error of the store. An error by itself never moves credits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The reservation was not answered in time. If it is granted later, it is released at once.
    #[error("the ledger did not answer in time")]
    Timeout,
    /// More requests wait than the ledger's queue may hold.
    #[error("the ledger's queue is full")]
    QueueFull,
    /// The gateway is stopping and takes nothing new.
    #[error("the ledger is shutting down")]
    ShuttingDown,
    /// The database refused this very item: a defect or a broken row, logged where it happened.
    #[error("the database refused: {0}")]
    Refused(Arc<str>),
    /// The database gave no connection, or no answer, in time.
    #[error(
        "the database cannot be reached: is it running, is its URL right, does it take more connections?"
    )]
    Unreachable,
    /// No server takes writes: all are standbys, read-only, or former primaries.
    #[error("no database server can be used: {0}")]
    NoPrimary(Arc<str>),
    /// The database answered with an error that has no kind of its own here.
    #[error("database: {0}")]
    Database(#[from] Arc<sqlx::Error>),
    /// The database refused a value that it cannot store: a number out of range, a character that no text may have, a
    /// value that breaks a constraint.
    #[error("the database cannot store this: {0}")]
    Unstorable(Arc<sqlx::Error>),
    /// A row holds what none of our code writes: an unknown word, an impossible figure, or nothing where there must be
    /// something.
    #[error("unreadable row: {0}")]
    Corrupt(Cow<'static, str>),
    /// The database is not as assumed, or its schema does not fit this version. The text says what to do.
    #[error("{0}")]
    Schema(Arc<str>),
    /// The caller of a management operation asked for something that is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// What the caller of a management operation named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What the caller of a management operation asked for contradicts the present state.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key of a management operation was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// Another request with this idempotency key is being processed.
    #[error("a request with this idempotency key is being worked on")]
    InProgress,
    /// The thing to be changed was changed since the caller read it.
    #[error("the item was changed meanwhile: its version is {current} now")]
    Stale { current: i32 },
}

impl StoreError {
    /// Whether the database gave no answer in time, for example because somebody else holds a lock.
    pub fn is_time_out(&self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Configuration(why) = &error
            && let Some(NoPrimary(why)) = why.downcast_ref()
        {
            return Self::NoPrimary(why.clone());
        }
        if let Some(why) = https::untrusted(&error) {
            return Self::NoPrimary(why.into());
        }
        match &error {
            sqlx::Error::PoolTimedOut => Self::Unreachable,
            // The statement took longer than its deadline, or waited too long for a lock.
            sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("57014" | "55P03")) => {
                Self::Timeout
            }
            // Raised by a rule of ours, in words for the caller.
            sqlx::Error::Database(e) if e.code().as_deref() == Some(REFUSED_BY_RULE) => {
                Self::Conflict(e.message().to_owned())
            }
            sqlx::Error::Database(e) => match fault_of_a_pooler(&**e) {
                Some(fault) => Self::Schema(
                    format!(
                        "between here and the server is a pooler that {fault} (PgBouncer): connect to PostgreSQL itself, by \
                         its own address and port in the database URL"
                    )
                    .into(),
                ),
                None if is_of_a_value(e.code().as_deref().unwrap_or_default()) => {
                    Self::Unstorable(Arc::new(error))
                }
                None => Self::Database(Arc::new(error)),
            },
            // The columns that were read are not those that the statement asked for, or hold an impossible value.
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::RowNotFound => Self::Corrupt(error.to_string().into()),
            _ => Self::Database(Arc::new(error)),
        }
    }
}

/// No server takes writes; the text says why for each.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(in crate::store) struct NoPrimary(pub(in crate::store) Arc<str>);

impl From<NoPrimary> for sqlx::Error {
    fn from(error: NoPrimary) -> Self {
        Self::Configuration(Box::new(error))
    }
}

/// The SQLSTATE that functions raise when they refuse a change, with a message for the caller.
const REFUSED_BY_RULE: &str = "TG001";

/// What a pooler does wrong, if that is what the error says. PostgreSQL has another code for wrong settings, and has every
/// statement that was prepared on the same connection.
fn fault_of_a_pooler(error: &dyn sqlx::error::DatabaseError) -> Option<&'static str> {
    match error.code().as_deref() {
        Some("08P01") if error.message().contains("startup parameter") => {
            Some("does not pass on the settings of a session")
        }
        Some("26000" | "42P05") => Some("does not keep sessions apart"),
        _ => None,
    }
}

/// Whether the value is at fault: data exceptions, broken constraints, exceeded limits such as a text too long for its
/// index.
fn is_of_a_value(sqlstate: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| sqlstate.starts_with(class))
}

/// How to go on after a batch has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum BatchFailure {
    /// The batch was rolled back and no item is at fault: send it again on the same connection.
    Retry,
    /// The batch was rolled back because a row stayed locked by somebody else: let others go on meanwhile.
    Locked,
    /// One of the items is at fault, and will always be: send the items one by one.
    Item,
    /// The outcome is unknown, or the server cannot be used: reconnect, then send the same ids again.
    Connection,
    /// The server refuses for a reason of its own, which may concern one item only: send the batch once more, then the
    /// items one by one.
    Server,
}

pub(in crate::store) fn classify(error: &sqlx::Error) -> BatchFailure {
    let database = match error {
        sqlx::Error::Database(database) => database,
        // The server answered with something that cannot be read: another connection would get the same answer.
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::RowNotFound => return BatchFailure::Server,
        // Nothing could be sent, or the answer did not come.
        _ => return BatchFailure::Connection,
    };
    let code = database.code().unwrap_or_default();
    match &*code {
        // serialization failure, deadlock, and the whole class of rollbacks without a cause in the data
        "40000" | "40001" | "40P01" => BatchFailure::Retry,
        // an integrity constraint, checked at the commit
        "40002" => BatchFailure::Item,
        // disk full, out of memory, configured limit: the server itself goes on
        "53000" | "53100" | "53200" | "53400" => BatchFailure::Retry,
        "55P03" => BatchFailure::Locked,
        // unknown whether it was committed; no free connection; the transaction was ended from outside
        "40003" | "53300" | "25P03" | "25P04" => BatchFailure::Connection,
        // a standby, or a primary in read-only mode
        "25006" => BatchFailure::Connection,
        // a statement that took too long: perhaps one of its items alone does
        "57014" => BatchFailure::Server,
        code if is_of_a_value(code) => BatchFailure::Item,
        // the connection broke, the server stops or starts, it does not let us in, the database is gone
        code if ["08", "57P", "28", "3D"].iter().any(|class| code.starts_with(class)) => {
            BatchFailure::Connection
        }
        _ => BatchFailure::Server,
    }
}

pub(in crate::store) fn is_unique_violation(error: &sqlx::Error, index: &str) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.code().as_deref() == Some("23505") && e.constraint() == Some(index))
}

/// One error of each kind, for tests of code that translates errors.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    macro_rules! samples {
        ($($variant:ident => $sample:expr;)+) => {
            /// A new kind of error does not compile until it has a sample here.
            pub(crate) fn name(error: &StoreError) -> &'static str {
                match error { $(StoreError::$variant { .. } => stringify!($variant),)+ }
            }

            pub(crate) fn all() -> Vec<StoreError> {
                vec![$($sample),+]
            }
        };
    }

    samples! {
        Timeout => StoreError::Timeout;
        QueueFull => StoreError::QueueFull;
        ShuttingDown => StoreError::ShuttingDown;
        Refused => StoreError::Refused("a value".into());
        Unreachable => StoreError::Unreachable;
        NoPrimary => StoreError::NoPrimary("all are standbys".into());
        Database => StoreError::Database(Arc::new(sqlx::Error::WorkerCrashed));
        Unstorable => StoreError::Unstorable(Arc::new(sqlx::Error::WorkerCrashed));
        Corrupt => StoreError::Corrupt("hold.state".into());
        Schema => StoreError::Schema("it lacks a migration".into());
        Invalid => StoreError::Invalid("not that".into());
        NotFound => StoreError::NotFound("not there".into());
        Conflict => StoreError::Conflict("not now".into());
        KeyReused => StoreError::KeyReused;
        InProgress => StoreError::InProgress;
        Stale => StoreError::Stale { current: 7 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::words::UnknownWord;

    /// An error of the server with this code.
    #[derive(Debug)]
    struct Raised(&'static str);

    impl std::fmt::Display for Raised {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Raised {}

    impl sqlx::error::DatabaseError for Raised {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }
        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    /// A batch is sent again for ever only where the same batch may succeed later.
    #[test]
    fn what_nobody_foresaw_is_a_reason_of_the_server() {
        for (codes, expected) in [
            (&["40001", "40P01", "53100", "53200", "53400"][..], BatchFailure::Retry),
            (&["55P03"], BatchFailure::Locked),
            (&["23505", "22003", "54000", "40002"], BatchFailure::Item),
            (
                &["08006", "57P01", "57P02", "57P03", "53300", "25006", "40003", "28P01", "3D000"],
                BatchFailure::Connection,
            ),
            (
                &["XX000", "XX001", "XX002", "P0001", "58030", "42501", "42P01", "0A000", "57014", "", "?"],
                BatchFailure::Server,
            ),
        ] {
            for code in codes {
                assert_eq!(classify(&sqlx::Error::Database(Box::new(Raised(code)))), expected, "{code}");
            }
        }
        assert_eq!(classify(&sqlx::Error::PoolTimedOut), BatchFailure::Connection);
        assert_eq!(classify(&sqlx::Error::RowNotFound), BatchFailure::Server);
    }

    #[test]
    fn what_cannot_be_read_is_corrupt_and_names_the_column() {
        let source = Box::new(UnknownWord::new("PAUSED", &["hold.state"]));
        let error = StoreError::from(sqlx::Error::ColumnDecode { index: "\"state\"".into(), source });
        assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("PAUSED") && text.contains("hold.state"), "{text}");
        for error in [
            sqlx::Error::RowNotFound,
            sqlx::Error::ColumnNotFound("state".into()),
            sqlx::Error::Decode("nothing".into()),
        ] {
            assert!(matches!(StoreError::from(error), StoreError::Corrupt(_)));
        }
        assert!(matches!(StoreError::from(sqlx::Error::PoolTimedOut), StoreError::Unreachable));
        assert!(matches!(StoreError::from(sqlx::Error::PoolClosed), StoreError::Database(_)));
    }
}
