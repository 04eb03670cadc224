//! Tollgate: a gateway that lets many teams share one paid video-generation account.
//!
//! # Where is what
//!
//! A file imports only from lower floors or from its own folder. One thing has one name: `docs/architecture.md` has the
//! glossary, and three walks through the code.
//!
//! | Floor | Modules | What lives there |
//! |---|---|---|
//! | 0 ground | [`ids`] [`credits`] [`clock`] [`secret`] [`metrics`] [`fail_point`] [`docs_page`] [`log_queue`] [`safe_url`] [`strict`] [`https`] [`shares`] | ids, checked integers, time, secrets, metric names, the page that shows an API, the queue of log lines to standard error, URLs whose answers nobody on the network can change, the refusal of input that says a thing twice, the one HTTP client, quantities of which no owner gets it all |
//! | 1 rules, no IO | [`wire`] [`pricing`] [`quote`] [`order`] [`api_key`] [`bulk`] [`encryption`] | the meaning of requests, prices, keys and the vendor's envelope; how many megabytes may be in memory; how secrets for others are stored |
//! | 2 settings | [`config`] | defaults, then the file, then the environment: the later value wins |
//! | 3 outside world | [`store`] (all SQL) · [`upstream`] · [`telemetry`] · [`postgres`] · [`simulator`] | all IO |
//! | 4 the call | [`error`] [`call`] | the one error type above the store; a type for each stage of a call |
//! | 5 shared by both planes | [`access`] [`price_cache`] [`rate_limits`] | who is calling, what prices are in force, how often a caller may call |
//! | 6 layers | [`poll`] [`layers`] [`handlers`] | the poller, the layers, the calls that the database answers; one file each |
//! | 7 assemblies | [`stack`] [`server`] [`admin`] [`background`] [`console`] | the wholes of layers, listeners, jobs and pages; they do not import one another |
//! | 8 the whole | [`app`] | builds every part, once |
//! | 9 the command line | [`cli`] | |
//!
//! The way of a data-plane request is one function: [`stack::data_plane`]. A paid create goes through the layers
//! `replay` (answers a known idempotency key), `price` (validates the body and prices it), `reserve` (holds the credits
//! durably) and `forward` (sends the create, records what the vendor says, answers the caller). Each stage has a type
//! of its own ([`call`]), so that no stage can be skipped or swapped.
//!
//! A hold then lives in the ledger: HELD → RUNNING → SETTLED or RELEASED, or IN_DOUBT while the outcome is unknown, and
//! WRITTEN_OFF if it stays unknown. The table `transition` says which step may follow which state; [`store`] explains
//! how credits move with the steps, also when evidence reopens a task after its end. [`poll`] asks the vendor about one
//! task and ends it; status calls and the [`background`] jobs share it.
//!
//! Any number of gateways run on one database. Each gateway holds a lease ([`store::Lease`]): without the lease it
//! sends nothing, and when the lease has ended the other gateways put its holds in doubt. No work of the gateways needs
//! a leader: polls are claimed, and a task is ended only from a state that allows it. [`upstream`] refuses early what
//! the vendor would not bear (a breaker, and a limited number of concurrent calls).
//!
//! What people manage (organisations, keys, budgets, credits, prices) goes through [`admin::api`], whose OpenAPI
//! document is also its access rule; `tollgate admin` is a client of it. A change is one statement and needs a
//! [`store::Acting`], which carries the actor. Triggers write the audit log, so that no change is missing from it.
//!
//! People without a command line use the [`console`]: pages on both listeners, which call the two APIs within the process as
//! the signed-in caller, and reach nothing else.
//!
//! A request has a [`telemetry::TraceContext`] from its first layer to the end of its own task. Spans and log events
//! find the context there, so that it need not be passed along.
//!
//! [`fail_point`] names the places where a process may break off; the tests in `tests/integration/faults/` check what
//! must hold afterwards.
//!
//! # What must stay true
//!
//! Each of these invariants is an ordinary test (`tests/integration/`):
//!
//! - ledger rows are only added (`holds::steps`, `holds::audit`);
//! - a hold ends once (`holds::steps`, `holds::model`);
//! - balance = sum of entries − sum of open holds, after every test (`support::database`: its `Drop` audits);
//! - a charge spends the grants that end first, and the rest of a grant is taken back once (`credits::expiry`);
//! - no budget is exceeded by an admission, on any number of gateways (`budget::gateways`, `budget::model`);
//! - a budget counts what was spent before it was made, and no work that grows with history is done under a balance row
//!   (`budget::counting`);
//! - the tasks of one organisation cost the platform at most its limit of a day and what is under way
//!   (`holds::exposure`, `data_plane::exposure`);
//! - a management route lets in the roles that its description names, and nobody else (`admin::authorisation`);
//! - the audit log has every change with its actor, and no secret (`admin::api`);
//! - usage by day = the entries of tasks, and a statement adds up to the balance (`credits::usage`, `credits::statement`,
//!   `holds::audit`);
//! - no SQL is outside of [`store`] (`house::architecture`, `clippy.toml`);
//! - the result of a statement never depends on columns that a later migration may add (`house::statements`,
//!   `house::columns`);
//! - a word in the database that the code does not know is an error, and never another word (`house::words`);
//! - every place that distinguishes errors decides on each kind of error (`house::matches`, tables beside the
//!   decisions);
//! - the functions, triggers and views of a database are those in the files below `migrations/` (`house::definitions`);
//! - no row stays locked over a round trip: a call of a lane, a change and a step of expiry are one statement each
//!   (`house::architecture`, `faults::frozen`);
//! - the gateway and the server both end a statement at its deadline, and backends never exceed the pools
//!   (`postgres::locks`);
//! - what was acknowledged survives a crash of the database (`holds::profiles`) and a promotion (`postgres::failover`);
//! - no float touches credits (`house::architecture`, lints in [`credits`] and [`pricing`]);
//! - the simulator imports nothing from the rest of the crate (`house::architecture`);
//! - no credential, prompt or media URL is in a log event, a span or a metric (`support::leaks`, over the whole suite);
//! - a key, a header or a parameter that is given twice is refused (`house::ambiguous_input`);
//! - only [`app`] builds parts (`house::architecture`);
//! - no stage of the data plane is skipped or swapped (it does not compile: tests of [`stack`]);
//! - no import goes up a floor (`house::architecture`).

pub mod access;
pub mod admin;
pub mod api_key;
pub mod app;
pub mod background;
pub mod bulk;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod credits;
pub mod docs_page;
pub mod encryption;
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
pub mod shares;
pub mod simulator;
pub mod stack;
pub mod store;
pub mod strict;
pub mod telemetry;
pub mod upstream;
pub mod wire;
