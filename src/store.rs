//! The store: everything that is kept in PostgreSQL. All SQL of the crate is in this module and below it.
//!
//! A create reserves its price in a *hold* before anything is sent. The hold then takes *steps* (table `transition`)
//! until it ends: SETTLED (charged, by one `consume` entry), RELEASED (nothing charged) or WRITTEN_OFF (refunded, with
//! a possible loss of the platform). What goes on is a narrow row of `open_task`; its end is the one update of its row in
//! `hold`. Entries are only ever added. At every instant, for each organisation,
//! `available = sum of entries − sum of open holds`. [`Database::audit`] proves it.
//!
//! There are three handles. [`Database`] is a pool for everything that is not on the paid path; [`SharedDatabase`] is one
//! that callers share, each with its turns; [`Ledger`] adds the lanes, which reserve and take steps in batches. If the
//! database has several servers, all follow the primary.
#![expect(clippy::disallowed_methods, reason = "this is where SQL lives")]

mod books;
mod budgets;
mod content;
mod credits;
mod db;
mod directory;
mod ledger;
mod prices;

pub use self::books::archive::{ArchivedSeal, ArchivedTable, Manifest, Moved, SealedMonth};
pub use self::books::audit::{AUDIT_CHECKS, AuditReport, AuditResult, Breach, Finding};
pub use self::books::drift::{AccountDrift, Drift, PriceDrift, TaskDrift};
pub use self::books::entries::{Entry, EntryFilter, EntryPosition};
pub use self::books::exposure::Exposure;
pub use self::books::health::{AuditVerdict, GatewayInfo, Health};
pub use self::books::statement::{Line, Month, Statement, Total};
pub use self::books::summary::{CreditSummary, ExpiringGrant, Runway};
pub use self::books::usage::{Usage, UsageBy, UsageFilter};
pub use self::budgets::{
    Budget, BudgetChange, BudgetEvent, BudgetFilter, BudgetInForce, BudgetLevel, BudgetRequest,
    BudgetSubject, CallerBudget, Grant, GrantVerdict, NewBudget, NewBudgetRequest, Period, RequestFilter,
    RequestState, RequestVerdict,
};
pub use self::content::{CONTENT_CONNECTIONS, Contents, UnfinishedRequest};
pub use self::credits::balance::Balance;
pub use self::credits::post::{Overdraft, PostedEntry, Transferred, Why};
pub use self::db::assumptions::{Purpose, Shortfall};
pub use self::db::change::{Acting, Actor};
pub use self::db::database::Database;
pub use self::db::epochs::{EpochListener, Epochs};
pub use self::db::error::StoreError;
#[cfg(test)]
pub(crate) use self::db::error::samples as error_samples;
pub use self::db::once::{Done, Fingerprint, Once};
pub use self::db::page::{HoldPosition, Slice};
pub use self::db::shared::{SharedDatabase, Turn};
pub use self::directory::audit_log::{AuditEntry, AuditFilter, SortOrder, TargetKind};
pub use self::directory::identity::{
    FoundIdentity, GivenRole, IdentityInfo, LISTS_OF_WORDS, Presented, Provider, ProviderSpec, Serves,
    SigningAlgorithm,
};
pub use self::directory::keys::{
    FoundKey, KeyBudget, KeyEdit, KeyFilter, KeyInfo, KeyPolicy, KeyPolicyChange, KeySpec, KeyStatus,
    KeyVerdict, MAX_OVERLAP, Principal, Rates, Role, Rotated,
};
pub use self::directory::names::{CallerNames, KeyName};
pub use self::directory::operators::{OperatorRole, OperatorToken};
pub use self::directory::sessions::{SessionHash, SessionInfo, SessionKind, SessionOf};
pub use self::directory::tenancy::{
    DeletedOrg, ForgottenUser, NewOrg, NewUser, Org, OrgChange, OrgFilter, Owned, Quota, QuotaKind,
    RemainingCredits, Status, Team, TeamChange, User, UserChange, UserFilter,
};
pub use self::ledger::Ledger;
pub use self::ledger::adopt::{Adopted, Adoption, ToAdopt};
pub use self::ledger::by_hand::{Earlier, Evidence, HoldInfo, TakenBack, ToSettle};
pub use self::ledger::claims::Claim;
pub use self::ledger::doubts::{Doubt, Loss, Resolved, ResolvedState};
pub use self::ledger::entry_kind::EntryKind;
pub use self::ledger::guard::{HoldGuard, Verdict};
pub use self::ledger::lanes::settings::{LaneSettings, RETRY_ASIDE, SIDE_LANES};
pub use self::ledger::lease::Lease;
pub use self::ledger::proof::Proof;
pub use self::ledger::running::RunningTask;
pub use self::ledger::step::{Applied, NewHold, Step, StepKind, Terms};
pub use self::ledger::task_lists::TaskFilter;
pub use self::ledger::tasks::{Late, OpenHolds, State, Task};
pub use self::ledger::texts::{StoredText, TaskText};
pub use self::ledger::unanswered::{Question, Sign};
pub use self::prices::{
    Activation, BookInfo, BookState, OrgOutcome, PriceFactorInfo, PriceUnit, TypeOutcome, WhatIf,
};
