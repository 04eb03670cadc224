//! Scripted faults: what `POST /_sim/script` takes.
//!
//! A script is one JSON document. Its rules are tried from top to bottom for every create and status call; the
//! first that matches, is due and has applications left decides what goes wrong.

mod fault;
mod plan;
mod rule;
mod unique;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use plan::{Canned, FaultPlan, Instead, Replacement};
use rule::FaultRule;
pub(super) use rule::SeenCall;
use unique::Unique;

/// The script in force; empty until one is posted.
#[derive(Default)]
pub(super) struct Script {
    active: RwLock<Arc<Active>>,
}

/// One posted document, ready to be consulted.
#[derive(Default)]
pub(super) struct Active {
    document: Value,
    pub(super) record: bool,
    exhausted_accounts: HashSet<String>,
    rejected_keys: HashSet<String>,
    rules: Vec<FaultRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptDocument {
    #[serde(default)]
    record: bool,
    #[serde(default)]
    exhausted_accounts: HashSet<String>,
    #[serde(default)]
    rejected_keys: HashSet<String>,
    // Read one by one, so that a complaint can say which rule it is about.
    #[serde(default)]
    rules: Vec<Value>,
}

impl Script {
    pub(super) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the script; all counters start again.
    pub(super) fn set(&self, active: Active) {
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(active);
    }
}

impl Active {
    /// Reads a document; the error is a sentence for the author of the script.
    pub(super) fn read(body: &[u8]) -> Result<Active, String> {
        let Unique(whole) = serde_json::from_slice(body).map_err(|error| match error.is_data() {
            true => format!("the script: {error}"),
            false => format!("the script is not JSON: {error}"),
        })?;
        if !whole.is_object() {
            // serde would read a list as a struct, field by field.
            return Err("the script is not a JSON object".to_owned());
        }
        let document: ScriptDocument =
            serde_json::from_value(whole.clone()).map_err(|error| format!("the script: {error}"))?;
        let rules = document.rules.into_iter().enumerate();
        Ok(Active {
            document: whole,
            record: document.record,
            exhausted_accounts: document.exhausted_accounts,
            rejected_keys: document.rejected_keys,
            rules: rules
                .map(|(at, rule)| FaultRule::read(rule).map_err(|error| format!("rules[{at}]{error}")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The document and how often each of its rules met a call and changed one.
    pub(super) fn show(&self) -> Value {
        json!({
            "script": if self.document.is_null() { json!({}) } else { self.document.clone() },
            "rules": self.rules.iter().map(FaultRule::show).collect::<Vec<_>>(),
        })
    }

    pub(super) fn is_exhausted(&self, account: &str) -> bool {
        self.exhausted_accounts.contains(account)
    }

    pub(super) fn is_rejected(&self, key: &str) -> bool {
        self.rejected_keys.contains(key)
    }

    /// The plan for this call; the honest one if no rule applies.
    pub(super) fn plan(&self, sight: &SeenCall<'_>) -> &FaultPlan {
        self.rules.iter().find_map(|rule| rule.applies(sight)).unwrap_or(&plan::HONEST)
    }
}

#[cfg(test)]
mod tests;
