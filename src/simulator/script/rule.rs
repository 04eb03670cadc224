//! One rule: the calls that it applies to, and how often.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};

use super::fault::{Fault, VendorCall};
use super::plan::FaultPlan;
use crate::simulator::request::Draft;
use crate::simulator::task::Task;

/// A call as rules see it. Only calls with a valid key get this far.
pub(in crate::simulator) enum SeenCall<'a> {
    Create { account: &'a str, draft: &'a Draft<'a> },
    Status { account: &'a str, task_id: &'a str, task: Option<&'a Task> },
}

pub(super) struct FaultRule {
    on: VendorCall,
    conditions: Conditions,
    skip: u64,
    times: Option<u64>,
    probability: f64,
    plan: FaultPlan,
    matched: AtomicU64,
    applied: AtomicU64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    on: VendorCall,
    #[serde(default, rename = "match")]
    conditions: Conditions,
    times: Option<u64>,
    probability: Option<f64>,
    #[serde(default)]
    skip: u64,
    fault: Value,
}

/// Conditions of a rule; all that are given must hold.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Conditions {
    #[serde(rename = "type")]
    kind: Option<String>,
    prompt_contains: Option<String>,
    task_id: Option<String>,
    account: Option<String>,
}

impl FaultRule {
    /// The error continues a sentence that began with `rules[n]`.
    pub(super) fn read(rule: Value) -> Result<FaultRule, String> {
        if !rule.is_object() {
            return Err(" is not a JSON object".to_owned());
        }
        let document: RuleDocument = serde_json::from_value(rule).map_err(|error| format!(": {error}"))?;
        let probability = document.probability.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&probability) {
            return Err(format!(".probability: {probability} is not between 0 and 1"));
        }
        if document.times == Some(0) {
            return Err(".times: 0 would never apply; leave it out for \"always\"".to_owned());
        }
        if document.on == VendorCall::Create && document.conditions.task_id.is_some() {
            return Err(
                ".match.task_id: a create has no task id yet; match on type or prompt_contains".to_owned()
            );
        }
        let faults = match document.fault {
            Value::Array(faults) if faults.is_empty() => {
                return Err(".fault: the list is empty; name at least one fault".to_owned());
            }
            Value::Array(faults) => {
                let each = faults.into_iter().enumerate().map(|(at, fault)| {
                    Fault::deserialize(fault).map_err(|error| format!(".fault[{at}]: {error}"))
                });
                each.collect::<Result<Vec<_>, _>>()?
            }
            fault => vec![Fault::deserialize(fault).map_err(|error| format!(".fault: {error}"))?],
        };
        Ok(FaultRule {
            on: document.on,
            conditions: document.conditions,
            skip: document.skip,
            times: document.times,
            probability,
            plan: FaultPlan::of(document.on, faults).map_err(|error| format!(".fault: {error}"))?,
            matched: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        })
    }

    /// The rule's plan, if the rule applies to this call and is due. Counts the call.
    pub(super) fn applies(&self, sight: &SeenCall<'_>) -> Option<&FaultPlan> {
        if !self.conditions.hold(self.on, sight) {
            return None;
        }
        if self.matched.fetch_add(1, Ordering::Relaxed) < self.skip {
            return None;
        }
        if self.probability < 1.0 && rand::random::<f64>() >= self.probability {
            return None;
        }
        // Exact under concurrency: `times: 1` applies to one of a thousand parallel calls, never to two.
        let left = |applied: u64| self.times.is_none_or(|times| applied < times).then_some(applied + 1);
        self.applied.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).ok()?;
        Some(&self.plan)
    }

    pub(super) fn show(&self) -> Value {
        json!({
            "matched": self.matched.load(Ordering::Relaxed),
            "applied": self.applied.load(Ordering::Relaxed),
        })
    }
}

impl Conditions {
    fn hold(&self, on: VendorCall, sight: &SeenCall<'_>) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        match sight {
            SeenCall::Create { account, draft } => {
                on == VendorCall::Create
                    && same(&self.account, Some(account))
                    && (self.kind.is_none() || same(&self.kind, draft.text("type").as_deref()))
                    && self.prompt_holds(|| draft.text("prompt"))
            }
            SeenCall::Status { account, task_id, task } => {
                on == VendorCall::Status
                    && same(&self.account, Some(account))
                    && same(&self.task_id, Some(task_id))
                    && same(&self.kind, task.map(|task| task.product.name))
                    && self
                        .prompt_holds(|| Draft::read(task.as_ref()?.request.get().as_bytes()).text("prompt"))
            }
        }
    }

    fn prompt_holds(&self, prompt: impl FnOnce() -> Option<String>) -> bool {
        match &self.prompt_contains {
            None => true,
            Some(part) => prompt().is_some_and(|prompt| prompt.contains(part.as_str())),
        }
    }
}
