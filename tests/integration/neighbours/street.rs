//! A gateway, an attacker, and the neighbours: two organisations that create, poll, list and quote all the while.

mod attack;
mod calls;
mod door;
mod restart;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate::config::Limits;
use tollgate::ids::{KeyId, UserId};
use tollgate::secret::Secret;
use tollgate::store::{Acting, Database, KeySpec, OperatorRole};

use self::attack::{Attackers, ignore};
pub use self::attack::{Real, Target, with_image};
use self::calls::Met;
use self::door::Door;
use crate::support::browser::Browser;
use crate::support::cluster::TestCluster;
use crate::support::database::{PATIENCE, TestDatabase, until, until_within};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::ADDRESS;
use crate::support::faults::table::skipped;
use crate::support::faults::{long, scaled};
use crate::support::http;
use crate::support::seed::{acting, admin_named};
use crate::support::tenant::{Tenant, history_of_keys};

/// As large as a body may be.
pub const LARGE: usize = (16 << 20) - 200;

/// The organisations by their place in the fleet.
pub const ATTACKER: usize = 0;
const NEIGHBOURS: [usize; 2] = [1, 2];

/// The memory that the shipped units give a gateway, in bytes. No attack may need more than half of it.
const SHIPPED: u64 = 1 << 30;

/// How long an attack lasts at its full strength.
fn length() -> Duration {
    Duration::from_secs(scaled(0, 10))
}

/// Within what time the memory is given back.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// A server that goes after the gateways.
enum Server {
    Shared(TestDatabase),
    Own(TestCluster),
}

impl Server {
    fn url(&self) -> String {
        match self {
            Self::Shared(database) => database.url().to_owned(),
            Self::Own(cluster) => cluster.url(),
        }
    }
}

/// Gateways in front of one vendor, with the attacker as their first organisation and the neighbours as the next two.
pub struct Street {
    fleet: Fleet,
    database: Acting,
    attackers: Attackers,
    client: Client,
    /// A client that keeps no connection.
    newcomer: Client,
    /// An admin of the attacker's organisation and of each neighbour, and its key.
    admins: Vec<(UserId, String, KeyId)>,
    operator: String,
    /// The attacker's admin is signed in at the console.
    cookie: String,
    door: Option<Door>,
    /// Where the operations listener of each gateway is.
    operations: Vec<String>,
    _server: Server,
}

impl Street {
    pub async fn new() -> Self {
        Self::of(1).await
    }

    /// A street with so many gateways.
    pub async fn of(gateways: usize) -> Self {
        Self::with(gateways, &[]).await
    }

    /// A street whose gateway is reached through a proxy at 127.0.0.1, which is the attacker's way to it.
    pub async fn behind_a_proxy() -> Self {
        Self::with(1, &[TRUSTED]).await
    }

    /// The same with a real HAProxy and the shipped file, through which everybody goes; none if there is no HAProxy.
    pub async fn behind_haproxy() -> Option<Self> {
        let program = Door::program()?;
        let mut street = Self::with(1, &[TRUSTED]).await;
        let [data, operations] = [street.base(0), street.operations[0].clone()].map(|url| address(&url));
        let door = Door::before(&program, data, operations).await;
        *street.fleet.customers.gateways[0].lock().unwrap() = format!("http://{}", door.plain);
        street.door = Some(door);
        Some(street)
    }

    /// A street with these settings of its gateways.
    pub async fn with(gateways: usize, settings: &[(&'static str, &str)]) -> Self {
        Self::at(Server::Shared(TestDatabase::new().await), gateways, settings).await
    }

    /// A street whose database server is nobody else's.
    pub async fn on_its_own_server() -> Self {
        Self::at(Server::Own(TestCluster::new().await), 1, &[]).await
    }

    async fn at(server: Server, gateways: usize, settings: &[(&'static str, &str)]) -> Self {
        let url = server.url();
        let mut spec = Spec::on(&url).patient();
        spec.gateways = gateways;
        // All organisations share a lane.
        spec.all.push(("TOLLGATE_LEDGER__LANES", "1".into()));
        spec.all.push(("TOLLGATE_DATABASE__ACQUIRE_TIMEOUT_MS", "20000".into()));
        spec.all.extend(settings.iter().map(|(name, value)| (*name, (*value).into())));
        // As many as a process gets where nobody raises the limit.
        spec.descriptors = Some(1_024);
        spec.memory = Some(SHIPPED);
        let fleet = Fleet::start(spec).await;
        let at_home = || http::builder().local_address(Some(ADDRESS));
        let client = at_home().build().unwrap();
        let newcomer = at_home().pool_max_idle_per_host(0).build().unwrap();
        let database = acting(&Database::connect(&Secret::new(&url), 4, PATIENCE).unwrap());
        let mut admins = Vec::new();
        for tenant in &fleet.customers.tenants[..=NEIGHBOURS[1]] {
            let admin = database.add_user(tenant.org, &admin_named("its admin")).await.unwrap();
            let (key, text) = database.create_key(tenant.org, admin, &key_of_admin()).await.unwrap();
            admins.push((admin, text.expose().to_owned(), key));
        }
        let (_, operator) =
            database.create_operator_token("a test", OperatorRole::Operator, None).await.unwrap();
        let (operator, cookie) = (operator.expose().to_owned(), String::new());
        let (attackers, door) = (Attackers::new(), None);
        let operations = (0..gateways).map(|gateway| fleet.admin_url(gateway)).collect();
        if fleet.killed_for_memory().is_none() {
            skipped("the limit of a gateway's memory", "no control group can be made here");
        }
        Self {
            fleet,
            database,
            attackers,
            client,
            newcomer,
            admins,
            operator,
            cookie,
            door,
            operations,
            _server: server,
        }
    }

    /// From here on the vendor treats the attacker's creates, or its tasks, like this.
    pub async fn vendor_does(self, on: &str, fault: Value) -> Self {
        let theirs = format!("organisation {ATTACKER} create");
        let rule = json!([{"on": on, "match": {"prompt_contains": theirs}, "fault": fault}]);
        self.fleet.vendor.script(rule).await;
        self
    }

    /// The attacker's organisation has had so many tasks, with so many keys of its admin, which is signed in at the console.
    pub async fn with_history(mut self, tasks: i32, keys: usize) -> Self {
        let org = self.fleet.customers.tenants[ATTACKER].org;
        let team = self.database.create_team(org, "film").await.unwrap();
        let (user, text, key) = self.admins[ATTACKER].clone();
        let mut all = vec![key];
        while all.len() < keys {
            all.push(self.database.create_key(org, user, &key_of_admin()).await.unwrap().0);
        }
        let tenant = Tenant { org, team, user, key };
        history_of_keys(&self.fleet.pool, &tenant, &all, tasks).await;
        let browser = Browser::at(self.base(0)).signed_in(&text).await;
        let cookies = browser.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        self.cookie = cookies.collect::<Vec<_>>().join("; ");
        self
    }

    fn base(&self, gateway: usize) -> String {
        self.fleet.customers.gateways[gateway].lock().unwrap().clone()
    }

    /// What the attack aims at: these listeners, or the first gateway's.
    fn target(&self, ignoring: Option<SocketAddr>) -> Target {
        let real = || Real {
            customers: self.fleet.customers.clone(),
            vendor: self.fleet.vendor.clone(),
            database: self.fleet.pool.clone(),
        };
        let data = self.door.as_ref().map_or_else(|| address(&self.base(0)), |door| door.address);
        Target {
            data: ignoring.unwrap_or(data),
            operations: ignoring.unwrap_or_else(|| address(&self.operations[0])),
            trust: self.door.as_ref().map(|door| door.trust.clone()),
            key: self.fleet.customers.tenants[ATTACKER].key.clone(),
            admin_key: self.admins[ATTACKER].1.clone(),
            operator: self.operator.clone(),
            cookie: self.cookie.clone(),
            org: self.fleet.customers.tenants[ATTACKER].org,
            real: ignoring.is_none().then(real),
            over: CancellationToken::new(),
            sent: Default::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The memory of the largest gateway now and at its peak, in bytes.
    fn memory(&self) -> (u64, u64) {
        let gateways = 0..self.fleet.customers.gateways.len();
        let all = gateways.map(|gateway| self.memory_of(gateway));
        all.reduce(|one, other| (one.0.max(other.0), one.1.max(other.1))).unwrap()
    }

    fn memory_of(&self, gateway: usize) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.fleet.id(gateway))).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("gateway {gateway} has ended: {status}"));
            let figure = line.split_whitespace().nth(1).unwrap();
            figure.parse::<u64>().unwrap() * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// From here on the peak is another one.
    fn forget_peaks(&self) {
        for gateway in 0..self.fleet.customers.gateways.len() {
            // Where the system cannot forget it, an earlier attack's peak counts as well.
            let _ = fs::write(format!("/proc/{}/clear_refs", self.fleet.id(gateway)), "5");
        }
    }

    /// The peak of memory, of which nobody may have been killed.
    #[track_caller]
    fn peak(&self, name: &str) -> u64 {
        let (_, peak) = self.memory();
        assert!(peak < SHIPPED / 2, "{name}: {peak} bytes at the peak");
        assert_eq!(self.fleet.killed_for_memory().unwrap_or_default(), 0, "{name}: killed for its memory");
        peak
    }

    /// Sends so many creates at a time whose bodies have `more` bytes, and reads the answers of their tasks, which must have
    /// `answered` bytes at least. Whoever finds no room tries again.
    pub async fn lets_through(self, creates: usize, more: usize, answered: usize) {
        let customers = &self.fleet.customers;
        let (image, real) = ("A".repeat(more), self.target(None).real.unwrap());
        // The create's answer, a poll while the task goes on, and that of its end come at the organisation's pace.
        let paced =
            3 * creates * answered / usize::try_from(Limits::default().org_answer_bytes_per_second).unwrap();
        let patience = PATIENCE + Duration::from_secs(paced as u64);
        let one = async || {
            let task = real.create_large(&image).await;
            until_within(patience, "its answer is read", async || {
                let data = customers.status(ATTACKER, 0, &task).await;
                data["status"] == "SUCCESS" && data.to_string().len() >= answered
            })
            .await;
        };
        futures_util::future::join_all((0..creates).map(|_| one())).await;
        let (_, peak) = self.memory();
        println!("{creates} creates of {more} bytes, answers of {answered}: {} MiB at the peak", peak >> 20);
        assert!(peak < SHIPPED, "{peak} bytes at the peak");
        self.concludes().await;
    }

    /// Lets `attack` loose, holds what the neighbours meet against what they may, and then the books against the vendor's.
    pub async fn bears<A>(self, name: &str, strength: usize, attack: impl Fn(Target) -> A)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        self.stands(name, strength, attack).await;
        self.concludes().await;
    }

    /// Lets `attack` loose, and holds what the neighbours meet against what they may, and what memory is left afterwards.
    pub async fn stands<A>(&self, name: &str, strength: usize, attack: impl Fn(Target) -> A)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let at_first = self.withstands(name, strength, attack).await;
        self.gives_back(name, at_first).await;
    }

    /// In the long form: what the gateway needs of memory comes back to what it was.
    pub async fn gives_back(&self, name: &str, at_first: u64) {
        if !long() {
            return;
        }
        let back = until("its memory is given back", async || self.memory().0 <= at_first + at_first / 5);
        let back = tokio::time::timeout(GIVEN_BACK, back).await;
        assert!(back.is_ok(), "{name}: {at_first} bytes became {}", self.memory().0);
    }

    /// Lets `attack` loose, and holds what the neighbours meet against what they may. The attack has its full strength once it has
    /// sent `strength`; its parts are tasks of the target's, and end when the target says so. The memory before it.
    pub async fn withstands<A>(&self, name: &str, strength: usize, attack: impl Fn(Target) -> A) -> u64
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let rounds = scaled(6, 60);
        // In the long form until the gateway has what it needs for good.
        self.lives(scaled(3, 60), Instant::now(), &Met::default()).await;
        let (at_first, _) = self.memory();
        self.forget_peaks();
        let mut baseline = None;
        if long() {
            // Its own processor time is not the gateway's fault: it sends the same to a server that ignores it.
            let ignoring = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = self.target(Some(ignoring.local_addr().unwrap()));
            self.attackers.start(&target, ignore(ignoring, target.over.clone()));
            self.attackers.start(&target, attack(target.clone()));
            baseline = Some(self.measured(rounds, &Met::default()).await);
            end(&target).await;
        }
        let met = Met::default();
        let target = self.target(None);
        let attacking = self.attackers.start(&target, attack(target.clone()));
        while !attacking.is_finished() && !target.has_sent(strength) {
            self.lives(1, Instant::now(), &met).await;
        }
        let (p99, ended) = self.measured(rounds, &met).await;
        end(&target).await;
        attacking.await.unwrap();
        met.must_be_served(name);
        let (count, peak) = (met.count(), self.peak(name));
        println!("{name}: {count} calls of neighbours, {} MiB at the peak", peak >> 20);
        let Some((p99_before, ended_before)) = baseline else { return at_first };
        println!(
            "| {name} | {count} | {p99_before:?} | {p99:?} | {ended_before:?} | {ended:?} | {} MiB |",
            peak >> 20
        );
        for (what, before, during) in [("answers", p99_before, p99), ("ends of tasks", ended_before, ended)] {
            let most = 2 * before + Duration::from_millis(20);
            assert!(during <= most, "{name}: p99 of {what}: {before:?} became {during:?}");
        }
        at_first
    }

    /// The neighbours live for so many rounds, and at least as long as an attack lasts; then all their tasks must end. The times
    /// within which 99 of 100 calls were answered, and 99 of 100 tasks ended.
    async fn measured(&self, rounds: usize, met: &Met) -> (Duration, Duration) {
        let since = self.now().await;
        self.lives(rounds, Instant::now() + length(), met).await;
        let ended = self.tasks_end(since).await;
        (met.p99(), ended)
    }

    /// Waits until every task has ended, with a vendor that behaves.
    pub async fn until_ended(&self) {
        self.fleet.vendor.behave().await;
        self.fleet.until_ended().await;
    }

    /// What the attacker's organisation has cost the platform, or may have.
    pub async fn losses(&self) -> i64 {
        let org = self.fleet.customers.tenants[ATTACKER].org.as_uuid();
        let losses = "select coalesce(sum(amount), 0)::bigint from platform_loss where org_id = $1";
        sqlx::query_scalar(losses).bind(org).fetch_one(&self.fleet.pool).await.unwrap()
    }

    /// The bytes that the server has written to its log so far, and those of the table of content.
    pub async fn written(&self) -> (i64, i64) {
        let written = "select (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint, \
            (select sum(pg_total_relation_size(relid))::bigint from pg_partition_tree('content'))";
        sqlx::query_as(written).fetch_one(&self.fleet.pool).await.unwrap()
    }

    /// What customers were answered, the vendor's books and the ledger must agree.
    pub async fn concludes(self) {
        let verdict = self.fleet.conclude(Instant::now()).await;
        verdict.must_be_clean();
    }
}

/// A gateway that believes what a proxy on this machine says of callers.
const TRUSTED: (&str, &str) = ("TOLLGATE_SERVER__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]");

fn key_of_admin() -> KeySpec {
    KeySpec { name: "admin".into(), env: "test".into(), ..KeySpec::default() }
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}

/// Waits until all parts of the attack have ended.
async fn end(target: &Target) {
    target.over.cancel();
    target.tasks.close();
    target.tasks.wait().await;
}
