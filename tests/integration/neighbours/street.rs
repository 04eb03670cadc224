//! A gateway, an attacker, and the neighbours: two organisations that create, poll, list and quote all the while.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate::ids::{KeyId, OrgId, UserId};
use tollgate::store::KeySpec;

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::{ADDRESS, Customers, Reply};
use crate::support::faults::{long, scaled};
use crate::support::http;
use crate::support::seed::admin_named;
use crate::support::tenant::{Tenant, history};

/// As large as a body may be.
pub const LARGE: usize = (16 << 20) - 200;

/// The organisations by their place in the fleet.
const ATTACKER: usize = 0;
const NEIGHBOURS: [usize; 2] = [1, 2];

/// Half of the memory that the shipped units give a gateway, in bytes.
const MEMORY: u64 = 512 << 20;

/// What an attack is given.
#[derive(Clone)]
pub struct Target {
    /// The data listener of the first gateway.
    pub data: SocketAddr,
    pub operations: SocketAddr,
    /// A key of the attacker's organisation.
    pub key: String,
    /// A key of its admin.
    pub admin_key: String,
    pub org: OrgId,
    /// The real gateways and their database; none while the attack is let loose on a server that ignores it.
    pub real: Option<Real>,
    /// Cancelled when the attack is to end.
    pub over: CancellationToken,
    /// Counts the connections, requests or bodies of the attack.
    pub sent: Arc<AtomicUsize>,
    /// The connections and loops of the attack.
    pub tasks: TaskTracker,
}

/// What an attacker can reach besides the first gateway.
#[derive(Clone)]
pub struct Real {
    pub customers: Arc<Customers>,
    pub database: PgPool,
}

impl Real {
    /// Creates of the attacker's organisation, on all gateways in turn, by so many workers and until the attack is over.
    pub fn create(&self, target: &Target, workers: usize) {
        for worker in 0..workers {
            let (each, customers) = (target.clone(), self.customers.clone());
            target.tasks.spawn(async move {
                // Each is written down: what becomes of it is held against the books.
                for number in worker.. {
                    if each.over.is_cancelled() {
                        return;
                    }
                    each.sent.fetch_add(1, Ordering::Relaxed);
                    customers.create(ATTACKER, number % customers.gateways.len()).await;
                }
            });
        }
    }
}

/// What the neighbours met.
#[derive(Debug, Default)]
struct Met {
    calls: Mutex<Vec<Duration>>,
    refused: Mutex<Vec<String>>,
}

impl Met {
    async fn call(&self, what: &str, request: RequestBuilder) {
        let begun = Instant::now();
        let answered = match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, format!("{error:?}")),
        };
        self.note(what, begun, answered.0 == 200, || format!("{answered:?}"));
    }

    fn note(&self, what: &str, begun: Instant, went_well: bool, answer: impl FnOnce() -> String) {
        self.calls.lock().unwrap().push(begun.elapsed());
        if !went_well {
            self.refused.lock().unwrap().push(format!("{what}: {}", answer()));
        }
    }

    /// The time within which 99 of 100 calls were answered.
    fn p99(&self) -> Duration {
        let mut calls = self.calls.lock().unwrap().clone();
        calls.sort();
        calls[calls.len() * 99 / 100]
    }
}

/// The threads of the attack. Were they the neighbours', these would wait for the attack's own turns before they could call at all.
struct Attackers(Option<Runtime>);

impl Attackers {
    fn new() -> Self {
        let threads = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self(Some(threads.unwrap()))
    }

    fn start(&self, target: &Target, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        target.tasks.spawn_on(task, self.0.as_ref().unwrap().handle())
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

/// Gateways in front of one vendor, with the attacker as their first organisation and the neighbours as the next two.
pub struct Street {
    fleet: Fleet,
    db: TestDatabase,
    client: Client,
    /// The attacker's admin, and its key.
    admin: UserId,
    admin_key: (KeyId, String),
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
        Self::with(1, &[("TOLLGATE_SERVER__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]")]).await
    }

    async fn with(gateways: usize, settings: &[(&'static str, &str)]) -> Self {
        let db = TestDatabase::new().await;
        let mut spec = Spec::on(db.url()).patient();
        spec.gateways = gateways;
        // All organisations share a lane.
        spec.all.push(("TOLLGATE_LEDGER__LANES", "1".into()));
        spec.all.push(("TOLLGATE_DATABASE__ACQUIRE_TIMEOUT_MS", "20000".into()));
        spec.all.extend(settings.iter().map(|(name, value)| (*name, (*value).into())));
        // As many as a process gets where nobody raises the limit.
        spec.descriptors = Some(1_024);
        let fleet = Fleet::start(spec).await;
        let client = http::builder().local_address(Some(ADDRESS)).build().unwrap();
        let org = fleet.customers.tenants[ATTACKER].org;
        let admin = db.database().add_user(org, &admin_named("its admin")).await.unwrap();
        let spec = KeySpec { name: "admin".into(), env: "test".into(), ..KeySpec::default() };
        let (key, text) = db.database().create_key(org, admin, &spec).await.unwrap();
        Self { fleet, db, client, admin, admin_key: (key, text.expose().to_owned()) }
    }

    /// From here on the vendor treats the attacker's creates, or its tasks, like this.
    pub async fn vendor_does(self, on: &str, fault: Value) -> Self {
        let theirs = format!("organisation {ATTACKER} create");
        let rule = json!([{"on": on, "match": {"prompt_contains": theirs}, "fault": fault}]);
        self.fleet.vendor.script(rule).await;
        self
    }

    /// The attacker's organisation has had so many tasks.
    pub async fn with_history(self, tasks: i32) -> Self {
        let org = self.fleet.customers.tenants[ATTACKER].org;
        let team = self.db.database().create_team(org, "film").await.unwrap();
        let tenant = Tenant { org, team, user: self.admin, key: self.admin_key.0 };
        history(&self.db, &tenant, tasks).await;
        self
    }

    fn base(&self, gateway: usize) -> String {
        self.fleet.customers.gateways[gateway].lock().unwrap().clone()
    }

    fn target(&self, data: SocketAddr, real: Option<Real>) -> Target {
        let operations = self.fleet.admin_url(0);
        Target {
            data,
            operations: operations.trim_start_matches("http://").parse().unwrap(),
            key: self.fleet.customers.tenants[ATTACKER].key.clone(),
            admin_key: self.admin_key.1.clone(),
            org: self.fleet.customers.tenants[ATTACKER].org,
            real,
            over: CancellationToken::new(),
            sent: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// One round of a neighbour: it creates a task, and looks at it, at its list, its price and its balance.
    async fn round(&self, neighbour: usize, gateway: usize, met: &Met) {
        let (base, key) = (self.base(gateway), &self.fleet.customers.tenants[neighbour].key);
        let get = |path: String| self.client.get(format!("{base}{path}")).bearer_auth(key);
        let begun = Instant::now();
        let reply = self.fleet.customers.create(neighbour, gateway).await;
        met.note("create", begun, matches!(reply, Reply::Accepted(_)), || format!("{reply:?}"));
        if let Reply::Accepted(task) = &reply {
            met.call("status", get(format!("/api/status?task_id={task}"))).await;
        }
        met.call("tasks", get("/api/tasks?limit=10".into())).await;
        let body = json!({"type": "pro-text-to-video", "prompt": "an eagle"}).to_string();
        let quote = self.client.post(format!("{base}/api/quote")).bearer_auth(key).body(body);
        met.call("quote", quote).await;
        met.call("credits", get("/api/credits".into())).await;
    }

    /// The neighbours' calls, so many rounds and until `over`.
    async fn lives(&self, rounds: usize, met: &Met) {
        let live = async |neighbour| {
            for round in 0..rounds {
                self.round(neighbour, round % self.fleet.customers.gateways.len(), met).await;
            }
        };
        let [one, other] = NEIGHBOURS;
        tokio::join!(live(one), live(other));
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
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let figure = line.split_whitespace().nth(1).unwrap();
            figure.parse::<u64>().unwrap() * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Sends so many creates at a time whose bodies have `more` bytes, and reads the answers of their tasks, which must have
    /// `answered` bytes at least. Whoever finds no room tries again.
    pub async fn lets_through(self, creates: usize, more: usize, answered: usize) {
        let customers = &self.fleet.customers;
        let image = "A".repeat(more);
        let one = async || {
            let mut create = customers.draft(ATTACKER);
            let mut body: Value = serde_json::from_str(&create.body).unwrap();
            body["image"] = image.clone().into();
            create.body = body.to_string();
            drop(body);
            let mut task = None;
            until("a large create finds room", async || {
                match customers.send(&mut create, 0).await {
                    Reply::Accepted(accepted) => task = Some(accepted),
                    // no answer: its body was refused, and is not read for longer than some seconds
                    Reply::Refused { status: 503, .. } | Reply::NoAnswer => {}
                    other => panic!("{other:?}"),
                }
                task.is_some()
            })
            .await;
            customers.note(create);
            let task = task.unwrap();
            until("its answer is read", async || {
                let data = customers.status(ATTACKER, 0, &task).await;
                data["status"] == "SUCCESS" && data.to_string().len() >= answered
            })
            .await;
        };
        futures_util::future::join_all((0..creates).map(|_| one())).await;
        let (_, peak) = self.memory();
        println!("{creates} creates of {more} bytes, answers of {answered}: {} MiB at the peak", peak >> 20);
        assert!(peak < 2 * MEMORY, "{peak} bytes at the peak");
        let verdict = self.fleet.conclude(Instant::now()).await;
        verdict.must_be_clean();
        drop(self.db);
    }

    /// Lets `attack` loose, and holds what the neighbours meet against what they may. The attack has its full strength once it has
    /// sent `strength`; its parts are tasks of the target's, and end when the target says so.
    pub async fn bears<A>(self, name: &str, strength: usize, attack: impl Fn(Target) -> A)
    where
        A: Future<Output = ()> + Send + 'static,
    {
        // Until the end: connections that the attack has made are used by the neighbours, too.
        let attackers = Attackers::new();
        let rounds = scaled(8, 400);
        self.lives(3, &Met::default()).await;
        let (at_first, _) = self.memory();
        let baseline = long().then(Met::default);
        if let Some(baseline) = &baseline {
            // Its own processor time is not the gateway's fault: it sends the same to a server that ignores it.
            let ignoring = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = self.target(ignoring.local_addr().unwrap(), None);
            attackers.start(&target, ignore(ignoring, target.over.clone()));
            attackers.start(&target, attack(target.clone()));
            self.lives(rounds, baseline).await;
            target.over.cancel();
            target.tasks.close();
            target.tasks.wait().await;
        }
        let met = Met::default();
        let real = Real { customers: self.fleet.customers.clone(), database: self.fleet.pool.clone() };
        let data = self.base(0).trim_start_matches("http://").parse().unwrap();
        let target = self.target(data, Some(real));
        let attacking = attackers.start(&target, attack(target.clone()));
        while !attacking.is_finished() && target.sent.load(Ordering::Relaxed) < strength {
            self.lives(1, &met).await;
        }
        self.lives(rounds, &met).await;
        target.over.cancel();
        target.tasks.close();
        target.tasks.wait().await;

        attacking.await.unwrap();
        let (_, peak) = self.memory();
        let refused = met.refused.lock().unwrap().clone();
        let count = met.calls.lock().unwrap().len();
        println!("{name}: {count} calls of neighbours, {} MiB at the peak", peak >> 20);
        assert!(
            refused.is_empty(),
            "{name}: of {count} calls of neighbours {} were refused: {:#?}",
            refused.len(),
            &refused[..refused.len().min(10)]
        );
        assert!(peak < MEMORY, "{name}: {peak} bytes at the peak");
        if let Some(baseline) = &baseline {
            let (before, during) = (baseline.p99(), met.p99());
            println!("| {name} | {count} | {before:?} | {during:?} | {} MiB |", peak >> 20);
            assert!(
                during <= 2 * before + Duration::from_millis(20),
                "{name}: p99 {before:?} became {during:?}"
            );
        }
        if long() {
            until("its memory is given back", async || {
                self.memory().0 <= at_first + at_first / 5 + (64 << 20)
            })
            .await;
        }
        let verdict = self.fleet.conclude(Instant::now()).await;
        verdict.must_be_clean();
        drop((self.db, attackers));
    }
}

/// Takes connections, reads, and answers nothing. It hangs up after the largest body, and at once on whom it has no room for: who
/// comes again is as busy then as before a gateway.
async fn ignore(listener: TcpListener, over: CancellationToken) {
    /// About as many as a gateway with these descriptors takes from strangers, with those that wait for a place.
    const ROOM: usize = 256;
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(ROOM)));
    loop {
        let accepted = tokio::select! {
            () = over.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((mut stream, _)) = accepted else { continue };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let over = over.clone();
        tasks.spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            let mut room = LARGE;
            let reading = async {
                while room > 0
                    && let Ok(read @ 1..) = stream.read(&mut buffer).await
                {
                    room = room.saturating_sub(read);
                }
            };
            tokio::select! {
                () = over.cancelled() => {}
                () = reading => {}
            }
            drop(place);
        });
    }
}
