//! Changes: each is one statement and carries an actor, whom the triggers write into the audit log.
//!
//! There is no other way to write what the audit log watches. What a gateway notes for itself (its lease, when it polls
//! next, when a key was last used, figures it shows) has no actor.
//!
//! No transaction stays open between two statements: a gateway that is frozen between two statements would keep its
//! rows locked until it runs again. A change of several steps is a function of the database.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use crate::store::db::database::Database;
use crate::store::db::queries::SingleStatement;
use crate::store::db::session::Deadline;

/// On whose behalf something is changed.
#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    /// A kind and an id, such as `key:key_…`; never a credential.
    #[serde(rename = "actor")]
    pub name: String,
    /// The network address of the caller; `None`: the change did not come over the network.
    pub address: Option<IpAddr>,
    /// The operation of the management API; `None`: the audit log names what happened to the row.
    pub action: Option<String>,
    pub request_id: Option<String>,
}

impl Actor {
    /// The actor for a part of this program that acts by itself, such as a background job.
    pub fn program(part: &str) -> Self {
        Self { name: format!("tollgate:{part}"), address: None, action: None, request_id: None }
    }
}

/// A handle that may change things, because it has an actor.
#[derive(Debug, Clone)]
pub struct Acting {
    database: Database,
    /// The actor as JSON, which the audit log's triggers read.
    audit: Arc<str>,
    name: Arc<str>,
}

impl Acting {
    /// A change: one statement, whose rows stay locked only while the server works on it.
    pub(in crate::store) fn change(&self) -> SingleStatement {
        self.database.pool().statement(Deadline::QUERY, Some(self.audit.clone()))
    }

    /// The name of the actor: a kind and an id.
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
    /// A handle on the same database for changes on behalf of `actor`.
    pub fn acting(&self, actor: Actor) -> Acting {
        Acting {
            database: self.clone(),
            audit: serde_json::to_string(&actor).unwrap_or_default().into(),
            name: actor.name.into(),
        }
    }
}
