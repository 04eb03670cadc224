//! Some gateways on one database, in front of one vendor, with twenty organisations as their customers.

use std::fs::{self, File, OpenOptions};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::process::{Child, Command};
use tollgate::credits::Credits;
use tollgate::secret::Secret;
use tollgate::store::{Database, KeySpec};

use super::load::{Create, Customers, Load, Plan, Reply, Tenant};
use super::oracle::{Evidence, Hold, Verdict};
use super::scaled;
use super::vendor::Vendor;
use crate::support::cgroup::Cgroup;
use crate::support::database::{PATIENCE, until};
use crate::support::gateway::MASTER_KEY;
use crate::support::leaks;
use crate::support::process::{Scratch, run};
use crate::support::seed::{TOP_UP, acting, org_named, user_named};

const ORGANISATIONS: usize = 20;
/// Enough for any run.
const CREDITS: i64 = 1_000_000_000;

/// What a fleet is to be like.
pub struct Spec {
    /// The database's servers as the gateways reach them.
    pub gateways_urls: Vec<String>,
    /// The database as the judge reaches it.
    pub direct_url: String,
    pub gateways: usize,
    pub task_time: Duration,
    /// Environment of every gateway.
    pub all: Environment,
    /// The most file descriptors of a gateway; none: as many as a test may have.
    pub descriptors: Option<u32>,
    /// The most memory of a gateway, in bytes, where the tests may limit it; none: no limit.
    pub memory: Option<u64>,
    /// Environment of single gateways, at their first start.
    pub each: Vec<(usize, Environment)>,
}

/// Environment variables.
pub type Environment = Vec<(&'static str, String)>;

impl Spec {
    /// Three gateways.
    pub fn on(url: &str) -> Self {
        let task_time = Duration::from_millis(300);
        let (all, descriptors, memory, each) = Default::default();
        let gateways_urls = vec![url.into()];
        Self { gateways_urls, direct_url: url.into(), gateways: 3, task_time, all, descriptors, memory, each }
    }

    /// Gateways with the patience that they have in production: for scenarios in which none of them is to blame.
    pub fn patient(mut self) -> Self {
        self.all.push(("TOLLGATE_LEDGER__LEASE_MS", "30000".into()));
        self.all.push(("TOLLGATE_LEDGER__RESERVE_TIMEOUT_MS", "20000".into()));
        self
    }

    /// The gateways reach the database by another way.
    pub fn through(self, url: &str) -> Self {
        Self { gateways_urls: vec![url.into()], ..self }
    }
}

/// Where nothing listens, and no port is given out.
const NOWHERE: &str = "http://127.0.0.1:1";

/// Its processes end with it.
pub struct Fleet {
    pub vendor: Arc<Vendor>,
    pub customers: Arc<Customers>,
    pub pool: PgPool,
    gateways: Vec<Option<Child>>,
    /// One of each gateway whose memory is limited.
    groups: Vec<Option<Cgroup>>,
    spec: Spec,
    config: String,
    scratch: Scratch,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for gateway in 0..self.spec.gateways {
            leaks::look_at("a gateway of a fleet", &self.log(gateway));
        }
        leaks::assert_none();
    }
}

impl Fleet {
    pub async fn start(spec: Spec) -> Self {
        let vendor = Arc::new(Vendor::start(spec.task_time).await);
        let tenants = tenants(&spec.direct_url).await;
        let customers = Customers::new(tenants, spec.gateways);
        let scratch = Scratch::new();
        let config = scratch.file("gateway.toml", &config(&spec, &vendor));
        let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(PATIENCE);
        let pool = pool.connect_lazy(&spec.direct_url).unwrap();
        let gateways = (0..spec.gateways).map(|_| None).collect();
        let groups = (0..spec.gateways).map(|_| spec.memory.and_then(Cgroup::with_memory)).collect();
        let mut fleet = Self { vendor, customers, pool, gateways, groups, spec, config, scratch };
        let environments: Vec<Environment> = (0..fleet.spec.gateways)
            .map(|gateway| fleet.spec.each.iter().find(|(whose, _)| *whose == gateway))
            .map(|own| own.map(|(_, environment)| environment.clone()).unwrap_or_default())
            .collect();
        for (gateway, environment) in environments.iter().enumerate() {
            fleet.launch(gateway, environment);
        }
        for (gateway, environment) in environments.iter().enumerate() {
            fleet.until_listening(gateway, environment).await;
        }
        fleet
    }

    fn log_path(&self, gateway: usize) -> PathBuf {
        self.scratch.0.join(format!("gateway-{gateway}.log"))
    }

    /// Everything the last run of this gateway has said.
    pub fn log(&self, gateway: usize) -> String {
        fs::read_to_string(self.log_path(gateway)).unwrap_or_default()
    }

    /// Where the operations listener of a gateway is.
    pub fn admin_url(&self, gateway: usize) -> String {
        let serving = event(&self.log(gateway), "serving").unwrap();
        serving["operations"].as_str().unwrap().to_owned()
    }

    fn launch(&mut self, gateway: usize, environment: &Environment) {
        leaks::look_at("a gateway of a fleet", &self.log(gateway));
        let log = File::create(self.log_path(gateway)).unwrap();
        // Appending: what a killed process leaves must not be overwritten in the middle.
        drop(log);
        let log = OpenOptions::new().append(true).open(self.log_path(gateway)).unwrap();
        let mut command = Command::new("sh");
        let limit = self.spec.descriptors.map_or_else(String::new, |most| format!("ulimit -n {most}; "));
        let entrance = self.groups[gateway].as_ref().map(Cgroup::entrance);
        let enter = entrance.map_or_else(String::new, |file| format!("echo $$ >'{}' && ", file.display()));
        command
            .arg("-c")
            .arg(format!("{limit}{enter}exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["serve", "--config", &self.config]).env_remove("DATABASE_URL").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.envs(leaks::environment());
        command.envs(self.spec.all.iter().chain(environment).map(|(name, value)| (*name, value)));
        self.gateways[gateway] = Some(command.spawn().unwrap());
    }

    async fn until_listening(&mut self, gateway: usize, environment: &Environment) {
        let path = self.log_path(gateway);
        let mut found = None;
        until("a gateway serves", async || {
            let ended =
                self.gateways[gateway].as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
            let text = fs::read_to_string(&path).unwrap_or_default();
            if ended && text.contains("cannot be reached") {
                // Too busy a machine for its patience. Whoever runs a gateway starts it again.
                self.launch(gateway, environment);
                return false;
            }
            found = event(&text, "serving").and_then(|event| event["data"].as_str().map(str::to_owned));
            assert!(found.is_some() || !ended, "a gateway ended before it served: {text}");
            found.is_some()
        })
        .await;
        *self.customers.gateways[gateway].lock().unwrap() = found.unwrap();
    }

    /// Starts a gateway that has ended; it listens somewhere else.
    pub async fn launch_again(&mut self, gateway: usize) {
        self.launch_as(gateway, &Environment::new()).await;
    }

    /// The same, with this environment.
    pub async fn launch_as(&mut self, gateway: usize, environment: &Environment) {
        self.launch(gateway, environment);
        self.until_listening(gateway, environment).await;
    }

    /// The gateways that run, as far as we know.
    fn alive(&self) -> Vec<usize> {
        (0..self.spec.gateways).filter(|gateway| self.gateways[*gateway].is_some()).collect()
    }

    fn pid(&self, gateway: usize) -> Pid {
        Pid::from_raw(self.gateways[gateway].as_ref().unwrap().id().unwrap().cast_signed())
    }

    /// The process id of a gateway.
    pub fn id(&self, gateway: usize) -> i32 {
        self.pid(gateway).as_raw()
    }

    /// How many gateways were killed because they had no memory left; none if their memory is not limited.
    pub fn killed_for_memory(&self) -> Option<u64> {
        self.groups.iter().map(|group| group.as_ref().map(Cgroup::killed)).sum()
    }

    pub fn signal(&self, gateway: usize, signal: Signal) {
        kill(self.pid(gateway), signal).unwrap();
    }

    /// Whether the process is stopped, as by SIGSTOP.
    pub fn is_stopped(&self, gateway: usize) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(gateway))).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// Kills a gateway without warning.
    pub async fn kill(&mut self, gateway: usize) {
        self.forget_address(gateway);
        self.signal(gateway, Signal::SIGKILL);
        self.ended(gateway).await;
    }

    /// The system gives the port of an ended gateway to whoever asks next, and a server of another test may never answer.
    fn forget_address(&self, gateway: usize) {
        NOWHERE.clone_into(&mut self.customers.gateways[gateway].lock().unwrap());
    }

    /// Waits until the gateway has ended.
    pub async fn ended(&mut self, gateway: usize) -> ExitStatus {
        self.forget_address(gateway);
        let mut child = self.gateways[gateway].take().unwrap();
        tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap()
    }

    /// Customers begin to create tasks.
    pub fn load(&self, plan: Plan) -> Load {
        self.customers.start(plan)
    }

    /// Waits until each gateway accepts a create; how long that took.
    pub async fn until_serving(&self) -> Duration {
        let began = Instant::now();
        for gateway in self.alive() {
            let mut last = None;
            let accepts = until("a gateway accepts creates again", async || {
                let reply = last.insert(self.customers.create(1, gateway).await);
                matches!(reply, Reply::Accepted(_))
            });
            if AssertUnwindSafe(accepts).catch_unwind().await.is_err() {
                let log = self.log(gateway);
                // Requests and what became of them are known: what else it said tells why.
                let known = |line: &&str| line.contains("\"request\"") || line.contains("not sent: ");
                let tail: Vec<_> = log.lines().rev().filter(|line| !known(line)).take(30).collect();
                panic!("gateway {gateway} does not accept creates: {last:?}; last first, it said {tail:#?}");
            }
        }
        began.elapsed()
    }

    /// Waits until customers have got so many more tasks.
    pub async fn until_busy(&self, more: usize) {
        let accepted = || {
            let log = self.customers.log.lock().unwrap();
            let accepted = |create: &&Create| {
                create.attempts.iter().any(|attempt| matches!(attempt.reply, Reply::Accepted(_)))
            };
            log.iter().filter(accepted).count()
        };
        let before = accepted();
        until("customers get tasks", async || accepted() >= before + more).await;
    }

    /// Waits until the leases of so many gateways have lapsed, long enough ago for others to have acted on it.
    pub async fn until_taken_for_dead(&self, gateways: i64) {
        let lapsed = "select count(*) >= $1 from gateway where alive_until < now() - $2 * interval '1 ms'";
        until("they are taken for dead", async || {
            let lapsed = sqlx::query_scalar(lapsed).bind(gateways).bind(scaled(600, 2500));
            lapsed.fetch_one(&self.pool).await.unwrap()
        })
        .await;
    }

    pub async fn holds(&self) -> Vec<Hold> {
        Hold::all(&self.pool).await
    }

    /// The holds of this create, oldest first.
    pub async fn holds_of(&self, create: &Create) -> Vec<Hold> {
        self.holds().await.into_iter().filter(|hold| hold.is_of(create)).collect()
    }

    /// Waits until no hold is HELD or RUNNING.
    pub async fn until_ended(&self) {
        let ended = until("every hold has ended or is in doubt", async || {
            sqlx::query_scalar("select not exists (select from task where state in ('HELD', 'RUNNING'))")
                .fetch_one(&self.pool)
                .await
                .unwrap()
        });
        if AssertUnwindSafe(ended).catch_unwind().await.is_err() {
            let holds = self.holds().await;
            let open: Vec<_> = holds.iter().filter(|hold| hold.is_unfinished()).take(5).collect();
            panic!("still open, among others: {open:?}");
        }
    }

    /// Waits until this create has one hold, in this state.
    pub async fn until_state(&self, create: &Create, state: &str) {
        let reached = until(
            "its hold gets there",
            async || matches!(&self.holds_of(create).await[..], [hold] if hold.state == state),
        );
        if AssertUnwindSafe(reached).catch_unwind().await.is_err() {
            panic!("not {state}: {create:?} {:?}", self.holds_of(create).await);
        }
    }

    /// The organisation that `conclude` drains; nobody else may move its credits then.
    pub const DRAINED: usize = 3;

    /// One organisation's last credits can all be spent, and not one more.
    async fn drain(&self) {
        const PRICE: i64 = 400;
        const CREATES: i64 = 5;
        let org = self.customers.tenants[Self::DRAINED].org;
        let database = acting(&Database::connect(&Secret::new(&self.spec.direct_url), 1, PATIENCE).unwrap());
        let available = async || database.balance(org).await.unwrap().unwrap().available.get();
        let surplus = Credits::new(CREATES * PRICE - available().await);
        if surplus != Credits::ZERO {
            database.adjust(org, surplus, TOP_UP, None).await.unwrap();
        }
        let alive = self.alive();
        for gateway in alive.iter().cycle().take(usize::try_from(CREATES).unwrap()) {
            assert!(
                matches!(self.customers.judged(Self::DRAINED, *gateway).await, Reply::Accepted(_)),
                "falsely refused"
            );
        }
        let over = self.customers.judged(Self::DRAINED, alive[0]).await;
        assert_eq!(over, Reply::Refused { status: 402, code: "INSUFFICIENT_CREDITS".into() });
        assert_eq!(available().await, 0);
    }

    /// Waits for the end of every hold, drains an organisation, audits, judges; then stops the gateways. `fault` is
    /// when the last fault was.
    pub async fn conclude(mut self, fault: Instant) -> Verdict {
        self.vendor.behave().await;
        self.until_ended().await;
        let ended = fault.elapsed();
        self.drain().await;
        self.until_ended().await;
        let audit = run(&["audit", "--database-url", &self.spec.direct_url]).await;
        let mut verdict = self.judge().await;
        verdict.ended = Some(ended);
        if audit.code != 0 {
            verdict.findings.push(format!("the audit: {audit:?}"));
        }
        let alive = self.alive();
        for gateway in &alive {
            self.signal(*gateway, Signal::SIGTERM);
        }
        for gateway in alive {
            let status = self.ended(gateway).await;
            if !status.success() {
                verdict.findings.push(format!("gateway {gateway} ended with {status}"));
            }
        }
        verdict
    }

    /// What the three accounts say now.
    pub async fn judge(&self) -> Verdict {
        let (tasks, holds) = (self.vendor.tasks().await, self.holds().await);
        let creates = self.customers.log.lock().unwrap().clone();
        let tenants = &self.customers.tenants;
        Evidence { tenants, creates: &creates, tasks: &tasks, holds: &holds }.judge()
    }
}

/// The first event with this message.
fn event(log: &str, message: &str) -> Option<Value> {
    let mut events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.find(|event| event["message"] == message)
}

async fn tenants(url: &str) -> Vec<Tenant> {
    let database = acting(&Database::connect(&Secret::new(url), 4, PATIENCE).unwrap());
    let mut tenants = Vec::new();
    for number in 0..ORGANISATIONS {
        let org = database.add_org(&org_named(&format!("organisation {number}"))).await.unwrap();
        database.grant(org, Credits::new(CREDITS), None, TOP_UP, None).await.unwrap();
        let user = database.add_user(org, &user_named("a user")).await.unwrap();
        let spec = KeySpec { name: "a key".into(), env: "test".into(), ..KeySpec::default() };
        let key = async || database.create_key(org, user, &spec).await.unwrap().1.expose().to_owned();
        tenants.push(Tenant { org, key: key().await, another_key: key().await });
    }
    tenants
}

/// Short patience and quick intervals, no limits.
fn config(spec: &Spec, vendor: &Vendor) -> String {
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        shutdown_grace_ms = 15000
        [admin]
        listen = "127.0.0.1:0"
        [database]
        urls = {:?}
        acquire_timeout_ms = 2000
        [upstream.kling_3]
        base_url = "{}"
        master_key = "{MASTER_KEY}"
        retry_429_ms = 400
        [ledger]
        lanes = 2
        lease_ms = 2000
        reserve_timeout_ms = 3000
        call_timeout_ms = 4000
        [limits]
        org_create_per_minute = 0
        org_status_per_minute = 0
        org_management_per_minute = 0
        max_open_tasks = 0
        max_exposure_per_day = 0
        [status]
        min_interval_ms = 20
        [reconciler]
        interval_ms = 100
        tick_ms = 200
        polls_per_second = 10000
        "#,
        spec.gateways_urls,
        vendor.url()
    )
}
