//! Requests on connections without valid credentials: how many are served at a time, and how much memory their heads take.

use std::sync::Arc;

use http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connections::{InProgress, Standing};
use crate::call::{Network, Peer};
use crate::metrics as m;
use crate::shares::{Share, Shares};

/// How many requests of one connection are served at a time before one of them had valid credentials; the others wait.
const STREAMS: usize = 8;

/// The most bytes in the heads of all such requests of a listener. One network gets half of what is free.
const HEADS: usize = 8 << 20;

/// The bytes that the heads of strangers' requests take on one listener.
pub(super) fn heads(listener: &'static str) -> Arc<Shares<Network>> {
    Shares::new(HEADS, metrics::gauge!(m::STRANGERS_HEADS_BYTES, "listener" => listener))
}

/// A stranger's request does not get the memory that it needs. On HTTP/1.1 its connection ends, on HTTP/2 its stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("too many requests without valid credentials are in progress")]
pub(super) struct TooManyStrangers;

/// What a stranger's request needs, from its head to its answer.
pub(super) struct StrangersTurn {
    _head: Share<Network>,
    _in_progress: InProgress,
    _turn: OwnedSemaphorePermit,
}

/// Limits the requests in progress on a connection whose client has not authenticated.
#[derive(Clone)]
pub(super) struct StrangersGate {
    peer: Peer,
    standing: Standing,
    heads: Arc<Shares<Network>>,
    turns: Arc<Semaphore>,
}

impl StrangersGate {
    pub(super) fn new(peer: Peer, standing: Standing, heads: Arc<Shares<Network>>) -> Self {
        Self { peer, standing, heads, turns: Arc::new(Semaphore::new(STREAMS)) }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Waits until the request may be served; nothing is held for a request of a client that is known.
    pub(super) async fn pass(
        &self,
        request: &Request<hyper::body::Incoming>,
    ) -> Result<Option<StrangersTurn>, TooManyStrangers> {
        if !self.peer.is_stranger() {
            return Ok(None);
        }
        let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let size = lines.sum::<usize>() + request.uri().path().len();
        let in_progress = self.standing.request();
        let head = self.heads.take(Network::of(self.peer.address), size).ok_or(TooManyStrangers)?;
        tokio::select! {
            turn = self.turns.clone().acquire_owned() => {
                let turn = turn.map_err(|_| TooManyStrangers)?;
                Ok(Some(StrangersTurn { _head: head, _in_progress: in_progress, _turn: turn }))
            }
            () = self.peer.known() => Ok(None),
        }
    }
}
