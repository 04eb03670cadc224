//! Customers: they create tasks at a rate, whatever becomes of the gateways, and write down what they were answered.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate::ids::OrgId;

use super::scaled;

use crate::support::database::until;
use crate::support::http;

/// Far longer than any answer of a gateway may take, on the busiest machine.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);
/// Where the customers live: not in the network of those who attack.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// So many creates may be under way at once; more are not offered. A busy machine gets as many as it can bear.
fn most_at_once() -> usize {
    scaled(60, 600)
}

/// An organisation and the keys of its user.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub org: OrgId,
    pub key: String,
    /// Another key of the same user.
    pub another_key: String,
}

/// What a customer was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// 200 with a task id.
    Accepted(String),
    /// 504 with our reference.
    Unknown(String),
    /// Any other answer.
    Refused { status: u16, code: String },
    /// The connection broke.
    NoAnswer,
}

impl Reply {
    pub fn task_id(&self) -> &str {
        match self {
            Self::Accepted(id) => id,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Whether the gateway says that nothing was sent, so that the customer may try again.
    pub(super) fn says_try_again(&self) -> bool {
        matches!(self, Self::NoAnswer | Self::Refused { status: 409 | 429 | 503, .. })
    }
}

/// One try of a create.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub gateway: usize,
    pub took: Duration,
    pub reply: Reply,
}

/// One task somebody wants, and every try to get it. Its prompt, and with it its body, is like no other.
#[derive(Debug, Clone)]
pub struct Create {
    pub tenant: usize,
    pub prompt: String,
    pub body: String,
    pub key: Option<String>,
    pub attempts: Vec<Attempt>,
}

/// How the customers behave.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Creates a second.
    pub rate: u32,
    /// Every so manieth create has an idempotency key; 0: none has.
    pub keyed: usize,
    /// Whether those with a key are sent again, to another gateway, until they are answered.
    pub again: bool,
}

/// How one request is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// After this time the client leaves; none: it waits for longer than any answer takes.
    pub patience: Option<Duration>,
    /// By the other key of the same user.
    pub another_key: bool,
    /// The client closes its own direction, and goes on reading.
    pub half_close: bool,
}

/// The customers of a fleet.
pub struct Customers {
    pub tenants: Vec<Tenant>,
    /// Where each gateway listens now.
    pub gateways: Vec<Mutex<String>>,
    pub log: Mutex<Vec<Create>>,
    client: Client,
    next: AtomicUsize,
}

const TYPES: [&str; 3] = ["pro-text-to-video", "std-text-to-video", "o3-pro-text-to-video"];

impl Customers {
    pub fn new(tenants: Vec<Tenant>, gateways: usize) -> Arc<Self> {
        let client = http::builder().timeout(CLIENT_TIMEOUT).local_address(Some(ADDRESS)).build().unwrap();
        let gateways = (0..gateways).map(|_| Mutex::default()).collect();
        Arc::new(Self { tenants, gateways, log: Mutex::default(), client, next: AtomicUsize::new(0) })
    }

    /// The next create: half of them are the first organisation's.
    pub(super) fn next(&self, keyed: usize) -> Create {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tenant = if number.is_multiple_of(2) { 0 } else { number / 2 % self.tenants.len() };
        let mut create = self.of(tenant, number, TYPES[number / 5 % TYPES.len()]);
        create.key = (keyed > 0 && number.is_multiple_of(keyed)).then(|| format!("key-{number}"));
        create
    }

    fn of(&self, tenant: usize, number: usize, task_type: &str) -> Create {
        let prompt = format!("organisation {tenant} create {number}");
        let body = json!({"type": task_type, "prompt": prompt, "duration": 5}).to_string();
        Create { tenant, prompt, body, key: None, attempts: Vec::new() }
    }

    /// A create of 400 credits by this tenant, yet to be sent.
    pub fn draft(&self, tenant: usize) -> Create {
        self.of(tenant, self.next.fetch_add(1, Ordering::Relaxed), TYPES[0])
    }

    /// Sends it once; the answer is in its attempts, and returned.
    pub async fn send(&self, create: &mut Create, gateway: usize) -> Reply {
        self.send_so(create, gateway, Manner::default()).await
    }

    /// The same, in a manner that clients have.
    pub(super) async fn send_so(&self, create: &mut Create, gateway: usize, manner: Manner) -> Reply {
        let began = Instant::now();
        let base = self.gateways[gateway].lock().unwrap().clone();
        let tenant = &self.tenants[create.tenant];
        let key = if manner.another_key { &tenant.another_key } else { &tenant.key };
        let reply = if manner.half_close {
            half_closed(&base, key, create).await.unwrap_or(Reply::NoAnswer)
        } else {
            let mut request = self.client.post(format!("{base}/api/generate")).bearer_auth(key);
            if let Some(key) = &create.key {
                request = request.header("idempotency-key", key);
            }
            if let Some(patience) = manner.patience {
                request = request.timeout(patience);
            }
            reply(request.body(create.body.clone())).await
        };
        create.attempts.push(Attempt { gateway, took: began.elapsed(), reply: reply.clone() });
        reply
    }

    /// Writes down what became of it.
    pub fn note(&self, create: Create) {
        self.log.lock().unwrap().push(create);
    }

    /// A create of 400 credits, sent once and written down.
    pub async fn create(&self, tenant: usize, gateway: usize) -> Reply {
        let mut create = self.draft(tenant);
        let reply = self.send(&mut create, gateway).await;
        self.note(create);
        reply
    }

    /// The same, until the ledger has judged it: a gateway on a busy machine may have no time for it at first.
    pub async fn judged(&self, tenant: usize, gateway: usize) -> Reply {
        let mut last = None;
        until("the create is judged", async || {
            let reply = self.create(tenant, gateway).await;
            let judged = !matches!(reply, Reply::Refused { status: 503, .. });
            last = Some(reply);
            judged
        })
        .await;
        last.unwrap()
    }

    /// The `data` of a status answer, which must be a 200. A 503 of a busy machine is asked again, and so is what went out on a
    /// connection that was idle and had to make room for others at that moment.
    pub async fn status(&self, tenant: usize, gateway: usize, task: &str) -> Value {
        let base = self.gateways[gateway].lock().unwrap().clone();
        let url = format!("{base}/api/status?task_id={task}");
        let mut data = None;
        until("a status call is answered", async || {
            let asked = self.client.get(&url).bearer_auth(&self.tenants[tenant].key).send().await;
            let Ok(answer) = asked else { return false };
            if answer.status().as_u16() == 503 {
                return false;
            }
            assert_eq!(answer.status().as_u16(), 200, "status of {task}");
            let mut body: Value = answer.json().await.unwrap();
            data = Some(body["data"].take());
            true
        })
        .await;
        data.unwrap()
    }

    async fn see_through(&self, mut create: Create, first: usize, again: bool) {
        let tries = if again && create.key.is_some() { 10 } else { 1 };
        let mut doubts = 0;
        for attempt in 0..tries {
            let reply = self.send(&mut create, (first + attempt) % self.gateways.len()).await;
            doubts += usize::from(matches!(reply, Reply::Unknown(_)));
            // A doubt is asked about once more, elsewhere.
            if !reply.says_try_again() && doubts != 1 {
                break;
            }
            // As clients do between tries.
            tokio::time::sleep(Duration::from_millis(100 << attempt.min(3))).await;
        }
        self.note(create);
    }

    /// Starts creating.
    pub fn start(self: &Arc<Self>, plan: Plan) -> Load {
        self.start_each(plan.rate, move |customers, gateway| async move {
            let create = customers.next(plan.keyed);
            customers.see_through(create, gateway, plan.again).await;
        })
    }

    /// Starts so many customers a second; each begins at the gateway that it is told.
    pub(super) fn start_each<F>(
        self: &Arc<Self>,
        rate: u32,
        each: impl Fn(Arc<Self>, usize) -> F + Send + 'static,
    ) -> Load
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (customers, stopped, work) = (self.clone(), stop.clone(), tasks.clone());
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
            let slots = Arc::new(Semaphore::new(most_at_once()));
            for gateway in 0.. {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    _ = tick.tick() => {}
                }
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let customer = each(customers.clone(), gateway % customers.gateways.len());
                work.spawn(async move {
                    customer.await;
                    drop(slot);
                });
            }
        });
        Load { stop, tasks }
    }
}

async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let Ok(answer) = request.send().await else { return Reply::NoAnswer };
    let status = answer.status().as_u16();
    let Ok(text) = answer.text().await else { return Reply::NoAnswer };
    of_answer(status, &text)
}

/// Sends a create and closes the own direction at once; nothing: no whole answer came.
async fn half_closed(base: &str, key: &str, create: &Create) -> Option<Reply> {
    let address = base.strip_prefix("http://")?;
    let mut stream = TcpStream::connect(address).await.ok()?;
    let named = create.key.iter().map(|key| format!("idempotency-key: {key}\r\n")).collect::<String>();
    let (body, length) = (&create.body, create.body.len());
    let head =
        format!("POST /api/generate HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n{named}");
    let request = format!("{head}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    (body.len() == length).then(|| of_answer(status, body))
}

fn of_answer(status: u16, text: &str) -> Reply {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let task = || body["data"]["task_id"].as_str().map(str::to_owned);
    match (status, task()) {
        (200, Some(id)) => Reply::Accepted(id),
        (504, Some(reference)) => Reply::Unknown(reference),
        _ => Reply::Refused { status, code: body["error"].as_str().unwrap_or("unreadable").to_owned() },
    }
}

/// Customers at work.
#[must_use = "they stop when it is dropped"]
pub struct Load {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Load {
    /// No further creates; returns when each has its answer.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
