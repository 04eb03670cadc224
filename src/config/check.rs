//! Checks of the configuration that its types alone cannot make. Every problem is found, not only the first.

use std::path::PathBuf;

use super::Config;
use super::error::{ConfigError, Origin};
use super::files::written_by_others;
use crate::https::unread;
use crate::secret::Secret;

/// Collects what is wrong.
pub(super) struct Check<'a> {
    origin: &'a Origin<'a>,
    found: Vec<ConfigError>,
}

impl<'a> Check<'a> {
    pub(super) fn new(origin: &'a Origin<'a>) -> Self {
        Self { origin, found: Vec::new() }
    }

    /// The value of a field is wrong.
    pub(super) fn wrong(&mut self, field: &str, value: impl Into<String>, right: impl Into<String>) {
        let (name, value, right) = (field.to_owned(), value.into(), right.into());
        self.add(field, |origin| ConfigError::Value { origin, field: name, value, right });
    }

    /// A problem that has an error of its own, made with the place where `field` was given.
    pub(super) fn add(&mut self, field: &str, error: impl FnOnce(String) -> ConfigError) {
        self.found.push(error((self.origin)(field)));
    }

    /// A field has a problem.
    pub(super) fn problem(&mut self, field: &str, problem: impl Into<String>) {
        let (name, problem) = (field.to_owned(), problem.into());
        self.add(field, |origin| ConfigError::Field { origin, field: name, problem });
    }

    /// What was found. Problems of fields that are among `told` are left out: they follow from what was told.
    pub(super) fn end(self, told: &[String]) -> Vec<ConfigError> {
        let known = |problem: &ConfigError| {
            let Some(field) = problem.field() else { return false };
            told.iter().any(|told| follows(field, &without_places(told)))
        };
        self.found.into_iter().filter(|problem| !known(problem)).collect()
    }

    /// The contents of the file of a secret.
    fn read(&mut self, field: &str, path: PathBuf) -> Option<Secret> {
        if let Some(mode) = written_by_others(&path) {
            self.problem(
                field,
                format!(
                    "{} may be written by every user of this machine (mode {mode:03o}): chmod o-w it, and make sure that \
                     it still holds what you have put there",
                    path.display()
                ),
            );
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim())),
            Err(error) => {
                let (name, reason) = (field.to_owned(), unread(&error));
                self.add(field, |origin| ConfigError::SecretFile { origin, field: name, path, reason });
                None
            }
        }
    }

    /// The secret itself, or the contents of its file; a problem if neither or both are given.
    pub(super) fn secret(
        &mut self,
        field: &str,
        value: Option<Secret>,
        file_field: &str,
        file: &mut Option<PathBuf>,
    ) -> Option<Secret> {
        let secret = match (value, file.take()) {
            (Some(_), Some(_)) => {
                self.wrong(field, format!("given beside {file_field}"), "the only one of the two");
                return None;
            }
            (Some(secret), None) => secret,
            (None, Some(path)) => self.read(file_field, path)?,
            (None, None) => Secret::new(""),
        };
        if secret.is_empty() {
            self.wrong(field, "missing", "set: here, by a file, or in the environment");
            return None;
        }
        Some(secret)
    }
}

/// Whether what is wrong with `field` follows from what was told of another one: a wrong `urls` or `master_key_file`, and then
/// neither `url` nor `master_key` is missing; or a section that is missing, and with it everything in it.
fn follows(field: &str, told: &str) -> bool {
    told.starts_with(field) && !told[field.len()..].contains('.')
        || field.strip_prefix(told).is_some_and(|within| within.starts_with('.'))
}

/// The path of a field without the places in lists: `accounts[1].name` is `accounts.name`.
fn without_places(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

impl Config {
    /// Checks what the types alone cannot, one section after the other, and reads the files of secrets.
    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        self.log.check(check);
        for (section, tls) in [("server", &self.server.tls), ("admin", &self.admin.tls)] {
            if let Some(tls) = tls {
                tls.check(section, check);
            }
        }
        self.server.check(check);
        self.database.check(check);
        self.admin.check(check);
        self.quotes.check(check);
        self.console.check(check);
        self.database.extra_ca_file = self.tls.extra_ca_file.clone();
        self.upstream.check(check);
        if let Err(reason) = self.egress() {
            check.add("tls.extra_ca_file", |origin| ConfigError::Trust { origin, reason });
        }
        self.telemetry.check(check);
    }
}
