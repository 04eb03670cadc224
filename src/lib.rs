//! Tollgate: a gateway that lets many teams share one paid video-generation account.
//!
//! # Where is what
//!
//! A file imports only from lower floors or from its own folder. One thing has one name: the glossary is in
//! `docs/architecture.md`, beside three walks through the code.
//!
//! | Floor | Modules | What lives there |
//! |---|---|---|
//! | 0 ground | [`ids`] [`credits`] [`clock`] [`secret`] [`metrics`] [`fail_point`] [`docs_page`] [`log_queue`] [`safe_url`] [`strict`] [`https`] | newtypes, checked integers, time, secrets, names, the page that shows an API, the way of log lines to standard error, the refusal of input that says a thing twice, the one HTTP client |
//! | 1 rules, no IO | [`wire`] [`pricing`] [`quote`] [`order`] [`api_key`] | what a request, a price, a key, an envelope mean |
//! | 2 settings | [`config`] | defaults, then file, then environment |
//! | 3 outside world | [`store`] (all SQL) · [`upstream`] · [`telemetry`] · [`postgres`] · [`simulator`] | all IO |
//! | 4 the call | [`error`] [`call`] | the one error; a type for each stage of a call |
//! | 5 shared by both planes | [`access`] [`price_cache`] [`rate_limits`] | who calls, what it costs, how often |
//! | 6 layers | [`poll`] [`layers`] [`handlers`] | one file each |
//! | 7 assemblies | [`stack`] [`server`] [`admin`] [`background`] | they do not import one another |
//! | 8 the whole | [`app`] | builds every part, once |
//! | 9 the command line | [`cli`] | |
//!
//! The request's way is one function: [`stack::data_plane`]. A paid create goes through `replay` (was this asked
//! before?), `price` (is it valid, what does it cost?), `reserve` (hold the credits, durably) and `forward` (send, learn,
//! record, answer). Each stage has a type of its own ([`call`]), so that none can be left out or swapped.
//!
//! A hold then lives in the ledger: HELD → RUNNING → SETTLED or RELEASED, or IN_DOUBT while nobody knows, and in the end
//! WRITTEN_OFF. The table `transition` says what may follow what; [`store`] tells how money moves
//! along it, also when evidence comes after an end. [`poll`] asks the vendor about one task and ends it; status calls and
//! the [`background`] job share it.
//!
//! Any number of gateways run on one database. Each holds a lease ([`store::Lease`]): without it nothing is sent, and the
//! holds of one whose lease is over are put in doubt by the others. No task of theirs needs a leader: polls are claimed,
//! ends are conditional. [`upstream`] refuses early what the vendor will not bear (a breaker, a bounded number of places).
//!
//! What people manage (organisations, keys, budgets, credits, prices) goes through [`admin::api`], whose OpenAPI document is
//! also its access rule; `tollgate admin` is a client of it. A change is one statement, and needs a [`store::Acting`], which
//! knows on whose behalf; the audit log is written by triggers, so that no change can be left out of it.
//!
//! A request has a [`telemetry::TraceContext`] from its first layer to the end of its own task: spans and log events find it
//! there, so that no part need be handed one.
//!
//! Where a process may break off is named in [`fail_point`]; what must hold then is tried in
//! `tests/integration/faults/`.
//!
//! # What must stay true
//!
//! Each is an ordinary test (`tests/integration/`):
//!
//! - ledger rows are only added (`holds::steps`, `holds::audit`);
//! - a hold ends once (`holds::steps`, `holds::model`);
//! - balance = sum of entries − sum of open holds, after every test (`support::database`: its `Drop` audits);
//! - what was spent burns the grants that end first, and what is left of them is taken back once (`credits::expiry`);
//! - no budget is exceeded by an admission, on any number of gateways (`budget::gateways`, `budget::model`);
//! - a management route lets in whom its description names and nobody else (`admin::authorisation`);
//! - who changes what is written down with the change, and no secret is (`admin::api`);
//! - usage by day = the entries of tasks, and a statement adds up to the balance (`credits::usage`, `credits::statement`,
//!   `holds::audit`);
//! - no SQL outside [`store`] (`house::architecture`, `clippy.toml`);
//! - no answer of a statement depends on columns that a later migration may add (`house::statements`, `house::columns`);
//! - a word of the database that the code does not know is an error, never another word (`house::words`);
//! - each kind of error is decided wherever errors are told apart (`house::matches`, tables beside the decisions);
//! - the functions, triggers and views of a database are those of the files below `migrations/` (`house::definitions`);
//! - no row lock is held while a message travels: a lane's call, a change and a step of expiry are one statement each
//!   (`house::architecture`, `faults::frozen`);
//! - a statement ends on both sides by its deadline, and backends never exceed the pools (`postgres::locks`);
//! - what was acknowledged survives a crash of the database (`holds::profiles`) and a promotion (`postgres::failover`);
//! - no float touches credits (`house::architecture`, lints in [`credits`] and [`pricing`]);
//! - the simulator imports nothing of ours (`house::architecture`);
//! - no credential, prompt or media URL is in a log event, a span or a metric (`support::leaks`, over the whole suite);
//! - a key, a header or a parameter that is given twice is refused (`house::ambiguous_input`);
//! - only [`app`] builds parts (`house::architecture`);
//! - no stage of the data plane is left out or swapped (it does not compile: tests of [`stack`]);
//! - no import goes up a floor (`house::architecture`).

pub mod access;
pub mod admin;
pub mod api_key;
pub mod app;
pub mod background;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credits;
pub mod docs_page;
pub mod error;
pub mod fail_point;
pub mod handlers;
pub mod https;
pub mod ids;
pub mod layers;
pub mod log_queue;
pub mod metrics;
pub mod order;
pub mod poll;
pub mod postgres;
pub mod price_cache;
pub mod pricing;
pub mod quote;
pub mod rate_limits;
pub mod safe_url;
pub mod secret;
pub mod server;
pub mod simulator;
pub mod stack;
pub mod store;
pub mod strict;
pub mod telemetry;
pub mod upstream;
pub mod wire;
