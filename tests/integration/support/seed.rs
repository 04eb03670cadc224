//! What tests ask the store for, in the words that the management API uses.

use tollgate::store::{Acting, Actor, Database, NewOrg, NewUser, Role, Why};

/// Why tests move credits.
pub const TOP_UP: Why<'static> = Why { reason: "top-up", external_ref: None };

/// A handle of a pool of the test's own that may change things.
pub fn acting(database: &Database) -> Acting {
    database.acting(Actor::program("test"))
}

pub fn org_named(name: &str) -> NewOrg {
    NewOrg { name: name.into(), time_zone: "UTC".into() }
}

pub fn user_named(name: &str) -> NewUser {
    NewUser { name: name.into(), role: Role::Member, team: None }
}

pub fn admin_named(name: &str) -> NewUser {
    NewUser { role: Role::Admin, ..user_named(name) }
}
