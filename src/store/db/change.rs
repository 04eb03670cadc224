//! Changes: one statement each, and it knows on whose behalf, so that the audit log (written by triggers) can tell.
//!
//! There is no other way to write, and no transaction that stays open between two statements: a gateway that is frozen
//! between them would keep its rows locked for as long as it is. What takes several steps is a function of the database.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use crate::store::db::database::Database;
use crate::store::db::queries::Statement;
use crate::store::db::session::Deadline;

/// On whose behalf something is changed.
#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    /// Who: a kind and an id, such as `key:key_…`; never a credential.
    #[serde(rename = "actor")]
    pub name: String,
    /// From where; none: not over the network.
    pub address: Option<IpAddr>,
    /// The operation; none: the log says what happened to the row.
    pub action: Option<String>,
    pub request_id: Option<String>,
}

impl Actor {
    /// A part of this program that acts by itself.
    pub fn program(part: &str) -> Self {
        Self { name: format!("tollgate:{part}"), address: None, action: None, request_id: None }
    }
}

/// A handle that may change things, because it says on whose behalf it does.
#[derive(Debug, Clone)]
pub struct Acting {
    database: Database,
    /// The actor as the audit log's triggers read it.
    audit: Arc<str>,
    name: Arc<str>,
}

impl Acting {
    /// A change: one statement, whose rows are locked for as long as the server works on it and no longer.
    pub(in crate::store) fn change(&self) -> Statement {
        self.change_within(Deadline::QUERY)
    }

    /// A change that may count what was spent in windows, under locks that reservations wait for.
    pub(in crate::store) fn counting_change(&self) -> Statement {
        self.change_within(Deadline::COUNTING)
    }

    fn change_within(&self, deadline: Deadline) -> Statement {
        self.database.pool().statement(deadline, Some(self.audit.clone()))
    }

    /// Who acts: a kind and an id.
    pub(in crate::store) fn actor(&self) -> &str {
        &self.name
    }
}

impl Deref for Acting {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Database {
    /// The same database, for changes on behalf of `actor`.
    pub fn acting(&self, actor: Actor) -> Acting {
        Acting {
            database: self.clone(),
            audit: serde_json::to_string(&actor).unwrap_or_default().into(),
            name: actor.name.into(),
        }
    }
}
