//! What needs a person: read once for each page of an operator, and shown above it.

use std::collections::BTreeMap;

use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::view::grouped;
use crate::clock::Clock;

/// A doubt may end by itself within this time.
const PATIENCE: Duration = Duration::HOUR;

/// The answer of `GET /admin/v1/health`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Health {
    pub(super) audit: Option<Verdict>,
    pub(super) doubts: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) oldest_doubt: Option<OffsetDateTime>,
    pub(super) stopped_organisations: i64,
    pub(super) live_gateways: i64,
    pub(super) accounts: Vec<Account>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Verdict {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) ended_at: OffsetDateTime,
    pub(super) took_ms: i64,
    pub(super) breaches: BTreeMap<String, i64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Account {
    pub(super) backend: String,
    pub(super) account: String,
    pub(super) usable: bool,
}

/// One line of the banner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attention {
    pub(super) text: String,
    /// The place below `/console` where something can be done about it.
    pub(super) place: &'static str,
}

impl Attention {
    /// The state of the platform could not be read.
    pub(super) fn unknown() -> Vec<Self> {
        let text = "It cannot be told now whether something needs a person: the state of the platform could not be read.";
        vec![Self { text: text.into(), place: "/gateways" }]
    }
}

/// `1 doubt`, `2 doubts`.
fn counted(count: i64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

impl Health {
    pub(super) fn attention(&self) -> Vec<Attention> {
        self.attention_at(Clock.wall())
    }

    fn attention_at(&self, now: OffsetDateTime) -> Vec<Attention> {
        let mut lines = Vec::new();
        let mut line = |text: String, place| lines.push(Attention { text, place });
        let breaches = self.audit.as_ref().map_or(0, |audit| audit.breaches.len());
        if breaches > 0 {
            let breaches = i64::try_from(breaches).unwrap_or(i64::MAX);
            line(
                format!("The audit found {}.", counted(breaches, "broken rule", "broken rules")),
                "/gateways",
            );
        }
        if let Some(oldest) = self.oldest_doubt.filter(|oldest| now - *oldest > PATIENCE) {
            let hours = (now - oldest).whole_hours();
            let text = format!(
                "{} in doubt, the oldest for {}.",
                counted(self.doubts, "task is", "tasks are"),
                counted(hours, "hour", "hours")
            );
            line(text, "/doubts");
        }
        if self.stopped_organisations > 0 {
            let text = counted(self.stopped_organisations, "organisation is", "organisations are");
            line(format!("{text} stopped because of what their tasks cost the platform."), "?stopped=yes");
        }
        for account in self.accounts.iter().filter(|account| !account.usable) {
            let Account { account, backend, .. } = account;
            let text = format!(
                "The video service refuses the account {account} of {backend}: its key is rejected, or it has no credits left."
            );
            line(text, "/gateways");
        }
        if self.live_gateways == 0 {
            line("No gateway has a live lease: nothing is sent to the video service.".into(), "/gateways");
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_is_well_needs_nobody_and_each_trouble_has_a_line() {
        let now = datetime!(2026-11-30 12:00 UTC);
        let account = Account { backend: "kling-3.0".into(), account: "main".into(), usable: true };
        let verdict = Verdict { ended_at: now, took_ms: 5, breaches: BTreeMap::new() };
        let well = Health {
            audit: Some(verdict.clone()),
            doubts: 1,
            oldest_doubt: Some(now - Duration::minutes(59)),
            stopped_organisations: 0,
            live_gateways: 1,
            accounts: vec![account.clone()],
        };
        assert_eq!(well.attention_at(now), []);
        let ill = Health {
            audit: Some(Verdict { breaches: [("a rule".to_owned(), 3)].into(), ..verdict }),
            doubts: 2,
            oldest_doubt: Some(now - Duration::minutes(125)),
            stopped_organisations: 1,
            live_gateways: 0,
            accounts: vec![Account { usable: false, ..account }],
        };
        let texts: Vec<String> = ill.attention_at(now).into_iter().map(|line| line.text).collect();
        assert_eq!(texts.len(), 5);
        assert_eq!(texts[0], "The audit found 1 broken rule.");
        assert_eq!(texts[1], "2 tasks are in doubt, the oldest for 2 hours.");
        assert!(texts[2].starts_with("1 organisation is stopped"), "{}", texts[2]);
    }
}
