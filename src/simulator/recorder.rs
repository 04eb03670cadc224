//! The last requests as they arrived, for tests of what the gateway lets through. Off unless a script asks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::request::Parts;
use serde::Serialize;

use super::clock::Millis;

const KEPT: usize = 64;
const LONGEST_BODY: usize = 64 * 1024;

/// A ring of recorded requests.
#[derive(Default)]
pub(super) struct Recorder {
    on: AtomicBool,
    ring: Mutex<VecDeque<Recorded>>,
}

#[derive(Debug, Clone, Serialize)]
struct Recorded {
    at_ms: Millis,
    method: String,
    /// With its query string.
    path: String,
    headers: Vec<(String, String)>,
    body_bytes: u64,
    /// Left out if it is long or not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

#[derive(Serialize)]
pub(super) struct RecorderView {
    recording: bool,
    requests: Vec<Recorded>,
}

impl Recorder {
    /// Switches recording. Starting it drops what an earlier script recorded.
    pub(super) fn switch(&self, on: bool) {
        if on {
            self.clear();
        }
        self.on.store(on, Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        self.ring().clear();
    }

    /// `body` is `None` when it was too large to be kept in memory.
    pub(super) fn note(&self, parts: &Parts, body_bytes: u64, body: Option<&[u8]>) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let recorded = Recorded {
            at_ms: Millis::now(),
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            headers: parts.headers.iter().map(header).collect(),
            body_bytes,
            body: body
                .filter(|body| body.len() < LONGEST_BODY)
                .and_then(|body| std::str::from_utf8(body).ok().map(str::to_owned)),
        };
        let mut ring = self.ring();
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(recorded);
    }

    pub(super) fn show(&self) -> RecorderView {
        RecorderView {
            recording: self.on.load(Ordering::Relaxed),
            requests: self.ring().iter().cloned().collect(),
        }
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Recorded>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
