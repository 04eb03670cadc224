//! What follows from the answers of the database: what is not as assumed, and how it is mended.

use super::Facts;
use crate::store::db::assumptions::{Purpose, Shortfall};

/// The oldest PostgreSQL that the tests run on.
const LEAST_VERSION: i32 = 150_000;

/// How many names of tables a sentence has at most.
const NAMED: usize = 3;

impl Facts {
    /// Everything that is not as assumed, in the order in which it should be mended.
    pub(in crate::store::db::assumptions) fn shortfalls(&self, purpose: Purpose) -> Vec<Shortfall> {
        let mut found = Vec::new();
        self.server(&mut found);
        self.guards(&mut found);
        self.durability(&mut found);
        self.strangers(&mut found);
        if !self.is_foreign() {
            match purpose {
                Purpose::Migrate => self.rights_to_migrate(&mut found),
                Purpose::Serve if self.ours => {
                    self.rights_to_serve(&mut found);
                    self.role_to_serve(&mut found);
                    self.reporting(&mut found);
                }
                // The check of the schema says what is missing.
                Purpose::Serve => {}
            }
        }
        found
    }

    fn server(&self, found: &mut Vec<Shortfall>) {
        if self.version < LEAST_VERSION {
            found.push(Shortfall::blocking(
                format!("the server is PostgreSQL {}", self.version / 10_000),
                "Use PostgreSQL 15 or newer",
            ));
        }
        if self.encoding != "UTF8" {
            found.push(Shortfall::blocking(
                format!(
                    "the encoding of the database is {}, which does not have all characters that callers and the \
                     vendor send; it must be UTF8",
                    self.encoding
                ),
                "The encoding of a database cannot be changed: make another one with \
                 'createdb -E UTF8 -T template0 NAME', and name it in the database URL",
            ));
        }
    }

    /// Revocations, the audit log and the rule that entries are only added are the work of triggers.
    fn guards(&self, found: &mut Vec<Shortfall>) {
        if self.replication_role == "replica" {
            found.push(Shortfall::blocking(
                "session_replication_role is replica: no trigger fires, so revoked keys would go on working, nothing would \
                 be written to the audit log, and entries of the ledger could be changed",
                self.remedy_for("session_replication_role", &self.replication_role_source, "origin"),
            ));
        }
    }

    fn durability(&self, found: &mut Vec<Shortfall>) {
        if self.data_may_be_lost {
            return;
        }
        if self.synchronous_commit == "off" {
            found.push(Shortfall::blocking(
                "synchronous_commit is off: a crash of the server would lose credits that were held and tasks that were \
                 paid for",
                self.synchronous_commit_remedy(),
            ));
        }
        if self.synchronous_commit == "local" && self.synchronous_standbys {
            found.push(Shortfall::advice(
                "synchronous_commit is local: a promotion of the synchronous standby may lose what was acknowledged",
                self.synchronous_commit_remedy(),
            ));
        }
        for (name, value) in [("fsync", &self.fsync), ("full_page_writes", &self.full_page_writes)] {
            if value == "off" {
                found.push(Shortfall::advice(
                    format!("{name} is off: a crash of the machine would damage the ledger"),
                    format!(
                        "Set {name} = on in the server's configuration and reload it. Only where data may be lost, as in \
                         tests: alter database {} set tollgate.data_may_be_lost = on",
                        quoted(&self.database)
                    ),
                ));
            }
        }
    }

    fn synchronous_commit_remedy(&self) -> String {
        self.remedy_for("synchronous_commit", &self.synchronous_commit_source, "on")
    }

    /// How a setting of the server is set right, by where its value comes from.
    fn remedy_for(&self, setting: &str, source: &str, right: &str) -> String {
        let (role, database) = (quoted(&self.role), quoted(&self.database));
        match source {
            "client" => format!("Take {setting} out of the options in the database URL"),
            "user" => format!("As an administrator: alter role {role} reset {setting}"),
            "database" => format!("As an administrator: alter database {database} reset {setting}"),
            "database user" => {
                format!("As an administrator: alter role {role} in database {database} reset {setting}")
            }
            "command line" => format!("Start the server without {setting} on its command line"),
            _ => {
                format!("As an administrator: alter system set {setting} = {right}; select pg_reload_conf()")
            }
        }
    }

    fn is_foreign(&self) -> bool {
        // Who may use no schema sees nothing of what is ours.
        let blind = self.schema.is_none();
        !blind && !self.ours && (!self.objects.is_empty() || (self.history && !self.our_history))
    }

    fn strangers(&self, found: &mut Vec<Shortfall>) {
        let remedy = "Give Tollgate a database of its own: make one with 'createdb -E UTF8 -T template0 NAME', and name it \
                      in the database URL";
        if self.history && !self.our_history {
            found.push(Shortfall::blocking(
                "its table _sqlx_migrations is the history of another application",
                remedy,
            ));
        } else if self.is_foreign() {
            found.push(Shortfall::blocking(
                format!("there is something in it that is not Tollgate's: {}", some(&self.objects)),
                remedy,
            ));
        }
    }

    fn rights_to_migrate(&self, found: &mut Vec<Shortfall>) {
        let (role, database) = (quoted(&self.role), quoted(&self.database));
        match &self.schema {
            None => found.push(Shortfall::blocking(
                format!(
                    "role {role} may use none of the schemas in its search_path ({})",
                    self.search_path
                ),
                format!("As the owner of the database or an administrator: grant usage, create on schema public to {role}"),
            )),
            Some(schema) if !self.may_create_tables => found.push(Shortfall::blocking(
                format!("role {role} may not make tables in the schema {schema}"),
                format!(
                    "As the owner of the database or an administrator: grant usage, create on schema {} to {role}",
                    quoted(schema)
                ),
            )),
            Some(_) => {}
        }
        if !self.reporting && !self.may_create_schemas {
            found.push(Shortfall::blocking(
                format!("role {role} may not make the schema reporting"),
                format!(
                    "As the owner of the database or an administrator: grant create on database {database} to {role}"
                ),
            ));
        }
        if self.reporting && !self.may_report {
            found.push(Shortfall::blocking(
                format!("role {role} may not make views in the schema reporting"),
                format!("As an administrator: alter schema reporting owner to {role}"),
            ));
        }
        if !self.not_owned.is_empty() {
            found.push(Shortfall::blocking(
                format!(
                    "role {role} does not own what is to be brought up to date: {}",
                    some(&self.not_owned)
                ),
                format!("Migrate as their owner, or make {role} a member of it: grant OWNER to {role}"),
            ));
        }
    }

    /// Gateways serve without a role of their own, too.
    fn role_to_serve(&self, found: &mut Vec<Shortfall>) {
        if self.serves_as.is_some() || self.app_usable {
            return;
        }
        let role = quoted(&self.role);
        let make = if self.app { "" } else { "create role tollgate_app nologin; " };
        found.push(Shortfall::advice(
            format!("gateways run as {role}, which may switch off the triggers that guard the books, if it owns the tables"),
            format!(
                "As an administrator: {make}grant tollgate_app to {role}. Then 'tollgate migrate' as the owner, and gateways \
                 run as tollgate_app, which may not"
            ),
        ));
    }

    fn rights_to_serve(&self, found: &mut Vec<Shortfall>) {
        let role = quoted(self.serves_as.as_deref().unwrap_or(&self.role));
        let schema = quoted(self.schema.as_deref().unwrap_or("public"));
        if !self.unreadable.is_empty() {
            found.push(Shortfall::blocking(
                format!("role {role} may not read {}", some(&self.unreadable)),
                format!("As the owner: grant select on all tables in schema {schema} to {role}"),
            ));
        }
        if !self.unwritable.is_empty() {
            found.push(Shortfall::blocking(
                format!("role {role} may not write to {}", some(&self.unwritable)),
                format!(
                    "As the owner: grant insert, update, delete on all tables in schema {schema} to {role}"
                ),
            ));
        }
        if !self.uncallable.is_empty() {
            found.push(Shortfall::blocking(
                format!("role {role} may not call {}", some(&self.uncallable)),
                format!("As the owner: grant execute on all routines in schema {schema} to {role}"),
            ));
        }
    }

    /// What dashboards need; gateways do without.
    fn reporting(&self, found: &mut Vec<Shortfall>) {
        let role = quoted(&self.role);
        const GRANTS: &str = "grant usage on schema reporting to tollgate_reader; grant select on all tables in schema \
                              reporting to tollgate_reader; grant execute on all functions in schema reporting to \
                              tollgate_reader; alter default privileges in schema reporting grant select on tables to \
                              tollgate_reader; alter default privileges in schema reporting grant execute on functions to \
                              tollgate_reader";
        if !self.reader {
            found.push(Shortfall::advice(
                "there is no role tollgate_reader, so dashboards cannot read the views in the schema reporting",
                format!("As an administrator: create role tollgate_reader nologin. Then, as {role}: {GRANTS}"),
            ));
        } else if self.reader_lacks {
            found.push(Shortfall::advice(
                "the role tollgate_reader may not read all views in the schema reporting, so dashboards show errors",
                format!("As {role}: {GRANTS}"),
            ));
        }
        if !self.monitors {
            found.push(Shortfall::advice(
                format!("role {role} does not see replication, so dashboards do not show standbys"),
                format!("As an administrator: grant pg_monitor to {role}"),
            ));
        }
    }
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The first of some names, and how many there are besides.
fn some(names: &[String]) -> String {
    let (named, others) = names.split_at(names.len().min(NAMED));
    match others.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            version: 150_004,
            database: "ledger".into(),
            role: "tollgate".into(),
            schema: Some("public".into()),
            encoding: "UTF8".into(),
            synchronous_commit: "on".into(),
            replication_role: "origin".into(),
            fsync: "on".into(),
            full_page_writes: "on".into(),
            may_create_schemas: true,
            may_create_tables: true,
            app: true,
            app_usable: true,
            reader: true,
            monitors: true,
            ..Facts::default()
        }
    }

    fn blocking(facts: &Facts, purpose: Purpose) -> Vec<String> {
        let found = facts.shortfalls(purpose).into_iter().filter(|shortfall| shortfall.blocking);
        found.map(|shortfall| format!("{}. {}", shortfall.what, shortfall.remedy)).collect()
    }

    #[test]
    fn what_is_as_assumed_is_not_complained_of() {
        for facts in [good(), Facts { ours: true, history: true, our_history: true, ..good() }] {
            for purpose in [Purpose::Migrate, Purpose::Serve] {
                assert_eq!(facts.shortfalls(purpose), []);
            }
        }
        // Remote waits are stronger than 'on', and what a demo or a failed first migration leaves is no stranger.
        let other =
            Facts { synchronous_commit: "remote_apply".into(), history: true, our_history: true, ..good() };
        assert_eq!(other.shortfalls(Purpose::Migrate), []);
    }

    #[test]
    fn the_remedy_is_where_the_setting_comes_from() {
        for (source, remedy) in [
            ("client", "options in the database URL"),
            ("user", "alter role \"tollgate\" reset"),
            ("database", "alter database \"ledger\" reset"),
            ("database user", "alter role \"tollgate\" in database \"ledger\" reset"),
            ("configuration file", "alter system set"),
        ] {
            let facts = Facts {
                synchronous_commit: "off".into(),
                synchronous_commit_source: source.into(),
                ..good()
            };
            let told = blocking(&facts, Purpose::Serve);
            assert!(told.len() == 1 && told[0].contains(remedy), "{source}: {told:?}");
            assert_eq!(blocking(&Facts { data_may_be_lost: true, ..facts }, Purpose::Serve), [""; 0]);
        }
    }

    #[test]
    fn everything_is_told_at_once() {
        let facts = Facts {
            version: 140_001,
            encoding: "SQL_ASCII".into(),
            fsync: "off".into(),
            full_page_writes: "off".into(),
            may_create_schemas: false,
            may_create_tables: false,
            ..good()
        };
        // What a lost page costs is told and not refused; all else is.
        for (purpose, refused) in [(Purpose::Migrate, 4), (Purpose::Serve, 2)] {
            assert_eq!(blocking(&facts, purpose).len(), refused, "{purpose:?}");
            assert_eq!(facts.shortfalls(purpose).len(), refused + 2, "{purpose:?}");
        }
    }

    #[test]
    fn rights_are_not_asked_for_in_a_database_of_somebody_else() {
        let facts = Facts {
            objects: ["a", "b", "c", "d"].map(Into::into).into(),
            may_create_tables: false,
            ..good()
        };
        let told = blocking(&facts, Purpose::Migrate);
        assert!(told.len() == 1 && told[0].contains("a, b, c and 1 more"), "{told:?}");
    }
}
