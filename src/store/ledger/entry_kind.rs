//! The kinds of entries.

use crate::store::db::words::words;

words! {
    /// What an entry stands for.
    pub enum EntryKind in "entry.kind" {
        Grant = "grant",
        /// A correction by an operator.
        Adjust = "adjust",
        /// Credits from or to another organisation.
        Transfer = "transfer",
        /// The unspent rest of a grant that expired.
        Expire = "expire",
        /// The charge of a task.
        Consume = "consume",
        /// The charge of a task that was reopened after its end.
        Correct = "correct",
    }
}
