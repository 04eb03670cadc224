//! Why a configuration cannot be used: every problem with its place and what would be right.

use std::path::PathBuf;

use super::schema::Misfit;
use super::{BadExtraAuthorities, BadPair};

/// Says where the value of a field was given: in a file, or in a variable.
pub(super) type Origin<'a> = dyn Fn(&str) -> String + 'a;

/// Why a configuration cannot be used: the place, the problem, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file does not exist.
    #[error("there is no configuration file {0}: give its path with --config")]
    Missing(PathBuf),
    /// The file cannot be parsed, or a field is unknown or of another type.
    #[error("{origin}: {problem}")]
    Unreadable {
        origin: String,
        /// The place in the file, the problem, and what would be right.
        problem: String,
    },
    /// The value of a field is not allowed.
    #[error("{origin}: {field} is {value}; it must be {right}")]
    Value {
        origin: String,
        field: String,
        value: String,
        /// What would be right.
        right: String,
    },
    /// The file of authorities to trust cannot be used.
    #[error("{origin}: {reason}")]
    Trust { origin: String, reason: BadExtraAuthorities },
    /// A field has a problem that is told in a sentence of its own.
    #[error("{origin}: {field}: {problem}")]
    Field { origin: String, field: String, problem: String },
    /// A certificate or its key cannot be used.
    #[error("{origin}: {section}.tls: {reason}")]
    Tls { origin: String, section: &'static str, reason: Box<BadPair> },
    /// The file of a secret cannot be read.
    #[error("{origin}: {field} names {path}, which cannot be read: {reason}")]
    SecretFile {
        origin: String,
        field: String,
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// There are several problems.
    #[error("{} problems:{}", .0.len(), lines(.0))]
    Several(Vec<ConfigError>),
}

fn lines(problems: &[ConfigError]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}

impl ConfigError {
    pub(super) fn unreadable(origin: &str, error: &figment::Error) -> Self {
        let problems: Vec<String> = error
            .clone()
            .into_iter()
            .map(|one| {
                let path = one.path.join(".");
                let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
                // The kind alone: the full text adds figment's profile and source, which mean nothing to the reader.
                format!("{place}{}", without_excerpt(&one.kind.to_string()))
            })
            .collect();
        Self::Unreadable { origin: origin.to_owned(), problem: problems.join("; ") }
    }

    pub(super) fn of_misfit(misfit: Misfit, origin: &Origin<'_>) -> Self {
        let origin = origin(&misfit.field());
        match misfit {
            Misfit::Value { field, value, right } => Self::Value { origin, field, value, right },
            Misfit::Unknown { section, name, known } => {
                let place = if section.is_empty() { String::new() } else { format!("{section}: ") };
                let problem = format!("{place}unknown field '{name}'; there are {}", known.join(", "));
                Self::Unreadable { origin, problem }
            }
        }
    }

    /// Every problem by itself.
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Several(problems) => problems,
            one => vec![one],
        }
    }

    /// One error for all problems; nothing if there are none.
    pub(super) fn of(mut problems: Vec<Self>) -> Result<(), Self> {
        match problems.len() {
            0 => Ok(()),
            1 => Err(problems.remove(0)),
            _ => Err(Self::Several(problems)),
        }
    }

    /// The name of the field that it concerns.
    pub(super) fn field(&self) -> Option<&str> {
        match self {
            Self::Value { field, .. } | Self::Field { field, .. } | Self::SecretFile { field, .. } => {
                Some(field)
            }
            Self::Missing(_)
            | Self::Unreadable { .. }
            | Self::Tls { .. }
            | Self::Trust { .. }
            | Self::Several(_) => None,
        }
    }
}

/// The message of a TOML parser, without its excerpt of the file, which may hold a secret.
fn without_excerpt(problem: &str) -> String {
    let is_excerpt =
        |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let lines: Vec<&str> = problem.trim_end().lines().filter(|line| !is_excerpt(line)).collect();
    lines.join(": ")
}
