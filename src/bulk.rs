//! Bodies and answers of megabytes: how many bytes of them may be in memory at a time, and where they are worked on.

mod pace;
mod stream;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::Body as _;
use http_body_util::BodyExt;

pub use self::pace::{AnswerPace, CountedAnswer};
pub use self::stream::{Slices, Streaming};

use crate::ids::OrgId;
use crate::metrics as m;
use crate::shares::{Share, Shares, TooManyWait};

/// Work on more bytes than this is not done on the threads that serve requests.
pub const SMALL: usize = 64 << 10;

/// How many of the threads for blocking work may work on large bodies and answers at a time.
const WORKERS: usize = 2;

/// How many answers of the vendor may wait until there is room for them.
const ANSWERS_WAITING: usize = 4_096;

/// How many answers that are too large to be kept may stream by at a time. Each has a thread.
const STREAMS: usize = 16;

/// How many pieces of work may wait for them. What waits has its bytes already, so there are few.
const WAITING: usize = 16_384;

/// Whose bytes they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payer {
    Org(OrgId),
    /// All operators together have one share.
    Operators,
}

/// What all share that handle bodies and answers.
#[derive(Debug, Clone)]
pub struct Bulk {
    pub budget: ByteBudget,
    pub workers: BulkWorkers,
    pub pace: AnswerPace,
    streams: Arc<Shares<Payer>>,
}

impl Bulk {
    /// At most `bytes` of bodies and answers in memory at a time.
    pub fn new(bytes: usize) -> Self {
        Self {
            budget: ByteBudget::new(bytes),
            workers: BulkWorkers::default(),
            pace: AnswerPace::new(0),
            streams: Shares::with_queue(STREAMS, ANSWERS_WAITING, metrics::Gauge::noop()),
        }
    }

    /// The same with a pace of the vendor's long answers.
    pub fn at(self, pace: AnswerPace) -> Self {
        Self { pace, ..self }
    }

    /// An answer to a caller, which counts until its client has read it, if it is large; none: there is no room for it.
    pub fn answer(&self, payer: Payer, body: Bytes) -> Option<Bytes> {
        if body.len() <= SMALL {
            return Some(body);
        }
        let share = self.budget.take(payer, body.len())?;
        Some(counted(body, share))
    }

    /// The same for an answer that was made in this room: it keeps what it needs of it, and does not queue for it once more.
    pub fn answer_in(&self, room: Room, payer: Payer, body: Bytes) -> Option<Bytes> {
        if body.len() <= SMALL || room.share.is_none() {
            return self.answer(payer, body);
        }
        let room = room.reduced(body.len());
        Some(counted(body, room))
    }

    /// The same for an answer of a page or of the management API. A body that is made while it is sent has no length yet and is
    /// left as it is: no more of it is in memory than is being sent.
    pub async fn held(&self, payer: Payer, answer: Response<Body>) -> Option<Response<Body>> {
        let length = answer.body().size_hint().exact();
        if length.is_none_or(|length| length <= SMALL as u64) {
            return Some(answer);
        }
        let (head, body) = answer.into_parts();
        let whole = body.collect().await.ok()?.to_bytes();
        Some(Response::from_parts(head, self.answer(payer, whole)?.into()))
    }
}

/// A share of the bytes that may be in memory.
pub type ByteShare = Share<Payer>;

/// The bytes of bodies and answers that may be in memory at a time. One organisation gets half of what is free.
#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Shares<Payer>>);

impl ByteBudget {
    pub fn new(total: usize) -> Self {
        metrics::gauge!(m::BYTES_UNDER_WAY_LIMIT).set(total as f64);
        metrics::counter!(m::BYTES_REFUSED).increment(0);
        Self(Shares::with_queue(total, ANSWERS_WAITING, metrics::gauge!(m::BYTES_UNDER_WAY)))
    }

    /// Room for this many bytes of `payer`; none: there is too little now.
    pub fn take(&self, payer: Payer, bytes: usize) -> Option<ByteShare> {
        let share = self.0.take(payer, bytes);
        if share.is_none() {
            metrics::counter!(m::BYTES_REFUSED).increment(1);
        }
        share
    }

    /// How many bytes are in memory.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.0.taken()
    }

    /// Room for this many bytes of `payer`, as soon as there is so much.
    pub async fn wait(&self, payer: Payer, bytes: usize) -> Result<ByteShare, TooManyWait> {
        self.0.wait(payer, bytes).await
    }
}

/// Bytes with their room, which is given back with the last reference to them: also when a connection has written them.
pub fn counted(bytes: impl AsRef<[u8]> + Send + 'static, room: impl Into<Room>) -> Bytes {
    struct Counted<B> {
        bytes: B,
        _room: Room,
    }
    impl<B: AsRef<[u8]>> AsRef<[u8]> for Counted<B> {
        fn as_ref(&self) -> &[u8] {
            self.bytes.as_ref()
        }
    }
    Bytes::from_owner(Counted { bytes, _room: room.into() })
}

/// A share that something keeps for as long as it is there; none: it is small. It makes no difference to what keeps it.
#[derive(Debug, Clone, Default)]
pub struct Room {
    share: Option<Arc<ByteShare>>,
}

impl Room {
    /// The same for fewer bytes, unless something else keeps it too.
    fn reduced(mut self, bytes: usize) -> Self {
        if let Some(share) = self.share.as_mut().and_then(Arc::get_mut) {
            share.shrink(bytes);
        }
        self
    }
}

impl From<ByteShare> for Room {
    fn from(share: ByteShare) -> Self {
        Some(share).into()
    }
}

impl From<Option<ByteShare>> for Room {
    fn from(share: Option<ByteShare>) -> Self {
        Self { share: share.map(Arc::new) }
    }
}

impl PartialEq for Room {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Room {}

/// The threads that work on large bodies and answers. Payers take turns.
#[derive(Debug, Clone)]
pub struct BulkWorkers(Arc<Shares<Payer>>);

/// Why work on a large body was not done.
#[derive(Debug, thiserror::Error)]
pub enum NotWorked {
    #[error(transparent)]
    TooManyWait(#[from] TooManyWait),
    #[error("work on a large body panicked")]
    Panicked,
}

impl Default for BulkWorkers {
    fn default() -> Self {
        Self(Shares::with_queue(WORKERS, WAITING, metrics::gauge!(m::BULK_WORKERS)))
    }
}

impl BulkWorkers {
    /// Does `work`, which reads `size` bytes: here if they are few, else on a thread of its own.
    pub async fn run<T: Send + 'static>(
        &self,
        payer: Payer,
        size: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotWorked> {
        if size <= SMALL {
            return Ok(work());
        }
        let place = self.0.wait(payer, 1).await?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        worked.await.map_err(|_| NotWorked::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    fn of(bytes: usize) -> Response<Body> {
        Response::new(vec![b'x'; bytes].into())
    }

    #[tokio::test]
    async fn a_large_answer_counts_until_it_is_gone_and_one_in_parts_does_not() {
        let bulk = Bulk::new(1 << 20);
        let small = bulk.held(Payer::Operators, of(SMALL)).await;
        assert!(small.is_some() && bulk.budget.taken() == 0);
        let large = bulk.held(Payer::Operators, of(300 << 10)).await;
        assert!(large.is_some() && bulk.budget.taken() == 300 << 10);
        assert!(
            bulk.held(Payer::Operators, of(600 << 10)).await.is_none(),
            "no more than half of what is free"
        );
        let parts = stream::iter([Ok::<_, Infallible>(vec![b'x'; 900 << 10])]);
        let streamed = bulk.held(Payer::Operators, Response::new(Body::from_stream(parts))).await;
        assert!(streamed.is_some() && bulk.budget.taken() == 300 << 10);
        drop(large);
        assert_eq!(bulk.budget.taken(), 0);
    }

    #[test]
    fn an_answer_keeps_what_it_needs_of_the_room_that_it_was_made_in() {
        let bulk = Bulk::new(1 << 20);
        let room: Room = bulk.budget.take(Payer::Operators, 500 << 10).into();
        let answer = bulk.answer_in(room, Payer::Operators, vec![b'x'; 300 << 10].into());
        // There would be no room for it once more.
        assert!(answer.is_some() && bulk.budget.taken() == 300 << 10);
        let another = bulk.answer_in(Room::default(), Payer::Operators, vec![b'x'; 600 << 10].into());
        assert!(another.is_none());
        drop(answer);
        assert_eq!(bulk.budget.taken(), 0);
    }

    #[tokio::test]
    async fn a_panic_in_a_bulk_thread_is_its_own() {
        let workers = BulkWorkers::default();
        for _ in 0..2 * WORKERS {
            let panicked = workers.run(Payer::Operators, SMALL + 1, || panic!("a test")).await;
            assert!(matches!(panicked, Err::<(), _>(NotWorked::Panicked)));
        }
        assert_eq!(workers.run(Payer::Operators, SMALL + 1, || 7).await.unwrap(), 7);
        assert_eq!(workers.0.taken(), 0);
    }
}
