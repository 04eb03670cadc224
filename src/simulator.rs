//! The upstream simulator: the vendor's API without the vendor, for demos, tests, staging and benchmarks.
//!
//! It answers `/api/generate` and `/api/status` as the vendor documents them, keeps true books of what every
//! account consumed (`/_sim/books`), and misbehaves on request (`/_sim/script`): refuses, hangs, cuts, lies. What it
//! tells and what it knows are kept apart, so a gateway's ledger can be held against the books after any fault.
//!
//! It stands on its own: nothing of the rest of this crate is imported here, so a mistaken idea about the vendor
//! cannot be shared by the gateway and the thing it is tested against.
#![expect(
    clippy::disallowed_methods,
    reason = "it reads what the vendor would read, as leniently; scripts are read strictly"
)]

mod answer;
mod books;
mod clock;
mod control;
mod create;
mod echo;
mod product;
mod recorder;
mod request;
mod script;
mod server;
mod service;
mod shared;
mod state_file;
mod status;
mod task;
mod video;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use books::Books;
use control::Guard;
use shared::Shared;
use state_file::{Journal, Writer};

/// How the simulator behaves when no script is in force.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Accepted bearer keys; each is one account.
    pub master_keys: Vec<String>,
    /// How long a task is `IN_PROGRESS`.
    pub task_time: Duration,
    /// Up to this much is added to a task's time, at random.
    pub task_jitter: Duration,
    /// Tasks with this prompt end at once.
    pub at_once: Option<String>,
    /// The share of tasks that end `FAILED`, 0 to 1.
    pub fail_ratio: f64,
    /// Where the books are kept over restarts and kills; only in memory if absent.
    pub state_file: Option<PathBuf>,
    /// Base of the video URLs in answers; the listener's own address if absent.
    pub public_url: Option<String>,
    /// Token for the pages under `/_sim/`. If absent, they are served without one, but only on a loopback address.
    pub control_token: Option<String>,
}

impl Default for SimulatorConfig {
    fn default() -> SimulatorConfig {
        SimulatorConfig {
            master_keys: vec!["sim-master-key".to_owned()],
            task_time: Duration::from_secs(8),
            task_jitter: Duration::from_secs(4),
            at_once: None,
            fail_ratio: 0.0,
            state_file: None,
            public_url: None,
            control_token: None,
        }
    }
}

/// Why a simulator cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulatorError {
    /// Another program listens on the address.
    #[error(
        "{address} is in use by another program: stop that one or choose another port (port 0 takes any free one)"
    )]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Without a key no call would ever succeed.
    #[error("the simulator needs at least one master key, and none of them may be empty")]
    NoMasterKey,
    /// The share of failing tasks is not a share.
    #[error("the share of failing tasks must be between 0 and 1, not {0}")]
    FailRatio(f64),
    /// The state file cannot be opened, read or cut back.
    #[error("the state file {} cannot be used", path.display())]
    StateFile {
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Two simulators must not share their books.
    #[error("the state file {} belongs to another running simulator: stop it or name another file", path.display())]
    StateFileInUse { path: PathBuf },
    /// The state file holds something that no simulator wrote.
    #[error(
        "line {line} of the state file {} is no task of a simulator: move the file away to begin with empty books",
        path.display()
    )]
    StateFileLine {
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A simulator that listens. Calls wait in the backlog until [`Simulator::run`] drives it.
pub struct Simulator {
    listener: TcpListener,
    local_addr: SocketAddr,
    writer: Option<Writer>,
    shared: Arc<Shared>,
}

impl Simulator {
    /// Reads the books of an earlier run, if there is a state file, and takes the address.
    pub async fn bind(listen: SocketAddr, config: SimulatorConfig) -> Result<Simulator, SimulatorError> {
        if config.master_keys.is_empty() || config.master_keys.iter().any(|key| key.trim().is_empty()) {
            return Err(SimulatorError::NoMasterKey);
        }
        if !(0.0..=1.0).contains(&config.fail_ratio) {
            return Err(SimulatorError::FailRatio(config.fail_ratio));
        }
        // The address first: a second simulator that was started by mistake fails here, before it touches the state file.
        let listener = TcpListener::bind(listen).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => SimulatorError::AddressInUse { address: listen },
            _ => SimulatorError::Listen { address: listen, source },
        })?;
        let local_addr =
            listener.local_addr().map_err(|source| SimulatorError::Listen { address: listen, source })?;
        let (journal, writer, tasks) = match &config.state_file {
            Some(path) => {
                let (journal, writer, tasks) = state_file::open(path)?;
                (journal, Some(writer), tasks)
            }
            None => (Journal::none(), None, Vec::new()),
        };
        let public_url = config.public_url.unwrap_or_else(|| format!("http://{}", reachable(local_addr)));
        let guard = Guard::of(config.control_token, local_addr.ip());
        let shared = Arc::new(Shared {
            guard,
            books: Books::new(&config.master_keys, tasks),
            echoes: Default::default(),
            journal,
            script: Default::default(),
            recorder: Default::default(),
            task_ms: millis(config.task_time),
            jitter_ms: millis(config.task_jitter),
            at_once: config.at_once,
            fail_ratio: config.fail_ratio,
            public_url: public_url.trim_end_matches('/').to_owned(),
            stopping: CancellationToken::new(),
        });
        Ok(Simulator { listener, local_addr, writer, shared })
    }

    /// The address it listens on, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` resolves, then lets calls in flight finish (for about a second at most) and writes the
    /// state file. Dropping the future instead closes every connection.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), SimulatorError> {
        let threads = TaskTracker::new();
        if let Some(writer) = self.writer {
            threads.spawn_blocking(move || writer.run());
        }
        server::serve(self.listener, Arc::clone(&self.shared), shutdown).await;
        self.shared.journal.stop();
        threads.close();
        threads.wait().await;
        Ok(())
    }
}

/// The address at which clients on this machine reach a listener that is bound to all addresses.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
