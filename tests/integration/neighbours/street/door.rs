//! A real HAProxy with the shipped file before the gateway, and a way to it for those who speak no TLS.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::support::connection::Trust;
use crate::support::database::until;
use crate::support::faults::load::ADDRESS;
use crate::support::process::Scratch;

/// See the module. All of it ends when it is dropped.
pub struct Door {
    /// Where HAProxy listens, with TLS.
    pub address: SocketAddr,
    pub trust: Arc<Trust>,
    /// What comes here goes to HAProxy, from where the neighbours live.
    pub plain: SocketAddr,
    _accepting: JoinSet<()>,
    _haproxy: Child,
    _scratch: Scratch,
}

impl Door {
    /// HAProxy, if this machine has it.
    pub fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        folders.map(|folder| folder.join("haproxy")).find(|program| program.exists())
    }

    /// An HAProxy before a gateway with these listeners.
    pub async fn before(program: &Path, data: SocketAddr, operations: SocketAddr) -> Self {
        let scratch = Scratch::new();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pair = scratch.file("pair.pem", &(certificate.pem() + &key.serialize_pem()));
        // Nobody else listens on this address.
        let free = TcpListener::bind("127.0.6.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let log = File::create(scratch.0.join("haproxy.log")).unwrap();
        let mut command = Command::new(program);
        command.arg("-f").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy/haproxy.cfg"));
        command.env("PUBLIC", address.to_string()).env("CERTIFICATE", pair);
        // Both of the file's gateways are this one.
        command.env("GATEWAY_1", data.ip().to_string()).env("GATEWAY_2", data.ip().to_string());
        command.env("GATEWAY_PORT", data.port().to_string());
        command.env("OPERATIONS_PORT", operations.port().to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let haproxy = command.spawn().unwrap();
        until("HAProxy listens", async || TcpStream::connect(address).await.is_ok()).await;
        let trust = Arc::new(Trust::of(&[certificate.into()]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = listener.local_addr().unwrap();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, address, trust.clone()));
        Self { address, trust, plain, _accepting: accepting, _haproxy: haproxy, _scratch: scratch }
    }
}

async fn accept(listener: TcpListener, haproxy: SocketAddr, trust: Arc<Trust>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let trust = trust.clone();
        // An error is the end of the connection on either side.
        connections.spawn(async move { drop(lead(stream, haproxy, &trust).await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn lead(mut stream: TcpStream, haproxy: SocketAddr, trust: &Trust) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ADDRESS, 0).into())?;
    let mut tls = trust.over(socket.connect(haproxy).await?, b"http/1.1").await?;
    copy_bidirectional(&mut stream, &mut tls).await?;
    Ok(())
}
