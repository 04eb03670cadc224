//! What an attack is given, the threads that it runs on, and the server that ignores it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::postgres::PgPool;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate::ids::OrgId;

use super::{ATTACKER, LARGE};
use crate::support::connection::Trust;
use crate::support::database::PATIENCE;
use crate::support::faults::load::{Customers, Reply};
use crate::support::faults::vendor::Vendor;

/// What an attack is given.
#[derive(Clone)]
pub struct Target {
    /// The data listener of the first gateway, or the proxy before it.
    pub data: SocketAddr,
    pub operations: SocketAddr,
    /// How to trust a proxy with TLS; none where there is none.
    pub trust: Option<Arc<Trust>>,
    /// A key of the attacker's organisation.
    pub key: String,
    /// A key of its admin.
    pub admin_key: String,
    /// A token of an operator.
    pub operator: String,
    /// The cookie of that admin's session of the console, once it has signed in.
    pub cookie: String,
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

/// A connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Target {
    pub fn has_sent(&self, strength: usize) -> bool {
        self.sent.load(Ordering::Relaxed) >= strength
    }

    /// Runs a part of the attack until it is over.
    pub fn run(&self, part: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = part => {}
            }
        });
    }

    /// Connects to the data listener for HTTP/2, if there is room.
    pub async fn connect(&self) -> Option<Box<dyn Stream>> {
        let Some(trust) = &self.trust else {
            return Some(Box::new(TcpStream::connect(self.data).await.ok()?));
        };
        // A proxy's clients are not where the proxy is.
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind((Ipv4Addr::new(127, 0, 0, 3), 0).into()).ok()?;
        let stream = socket.connect(self.data).await.ok()?;
        Some(Box::new(trust.over(stream, b"h2").await.ok()?))
    }
}

/// What an attacker can reach besides the first gateway.
#[derive(Clone)]
pub struct Real {
    pub customers: Arc<Customers>,
    pub vendor: Arc<Vendor>,
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

    /// A create of the attacker's with this image, and its task. Without room it is sent again.
    pub async fn create_large(&self, image: &str) -> String {
        let mut create = self.customers.draft(ATTACKER);
        create.body = with_image(&create.body, image);
        let sending = async {
            loop {
                match self.customers.send(&mut create, 0).await {
                    Reply::Accepted(task) => return task,
                    // no answer: its body was refused, and is not read for longer than some seconds
                    Reply::Refused { status: 503, .. } | Reply::NoAnswer => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let task = tokio::time::timeout(PATIENCE, sending).await;
        self.customers.note(create);
        task.unwrap()
    }
}

/// A create's body with an image, which needs no escapes.
pub fn with_image(body: &str, image: &str) -> String {
    format!("{},\"image\":\"{image}\"}}", body.trim_end_matches('}'))
}

/// The threads of the attack. Were they the neighbours', these would wait for the attack's own turns before they could call at all.
/// They end with the street: connections that the attack has made are used by the neighbours, too.
pub struct Attackers(Option<Runtime>);

impl Attackers {
    pub fn new() -> Self {
        let threads = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self(Some(threads.unwrap()))
    }

    pub fn start(&self, target: &Target, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
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

/// Takes connections, reads, and answers nothing. It hangs up after the largest body, and at once on whom it has no room for: who
/// comes again is as busy then as before a gateway.
pub async fn ignore(listener: TcpListener, over: CancellationToken) {
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
