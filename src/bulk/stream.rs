//! Answers that are too large to be kept: they are read as they stream by.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Bulk, BulkWorkers, NotWorked, Payer};
use crate::shares::{Share, TooManyWait};

/// How many slices may wait for the thread that reads them.
const WAITING_SLICES: usize = 2;

/// A reader at work, which is fed with slices.
#[derive(Debug)]
pub struct Streaming<T> {
    slices: mpsc::Sender<Bytes>,
    reading: JoinHandle<T>,
}

/// The slices of a stream, for a reader that blocks its thread. Of the threads that work on large bodies it takes one only
/// while it works on a slice, and none while it waits for the next.
#[derive(Debug)]
pub struct Slices {
    slices: mpsc::Receiver<Bytes>,
    slice: Bytes,
    workers: BulkWorkers,
    payer: Payer,
    place: Option<Share<Payer>>,
    runtime: Handle,
}

impl Bulk {
    /// Begins to read a stream of `payer`, as soon as the payer may have one more. The reader sees the end of the stream also
    /// when the stream is given up.
    pub async fn stream<T: Send + 'static>(
        &self,
        payer: Payer,
        read: impl FnOnce(Slices) -> T + Send + 'static,
    ) -> Result<Streaming<T>, TooManyWait> {
        let one = self.streams.wait(payer, 1).await?;
        let (sender, slices) = mpsc::channel(WAITING_SLICES);
        let (workers, runtime) = (self.workers.clone(), Handle::current());
        let reading = tokio::task::spawn_blocking(move || {
            let slices = Slices { slices, slice: Bytes::new(), workers, payer, place: None, runtime };
            let done = read(slices);
            drop(one);
            done
        });
        Ok(Streaming { slices: sender, reading })
    }
}

impl<T> Streaming<T> {
    /// After so many slices the reader has let go of all that was fed before them.
    pub const BEHIND: usize = WAITING_SLICES + 1;

    /// Feeds the next slice as soon as the reader can take it; whether it takes any more.
    pub async fn feed(&self, slice: Bytes) -> bool {
        self.slices.send(slice).await.is_ok()
    }

    /// Says that the stream has ended; returns what was read.
    pub async fn finish(self) -> Result<T, NotWorked> {
        drop(self.slices);
        self.reading.await.map_err(|_| NotWorked::Panicked)
    }
}

impl Slices {
    fn next(&mut self) -> io::Result<bool> {
        self.place = None;
        // The last slice is dropped before the next one is taken: `BEHIND` counts on that.
        self.slice = Bytes::new();
        let Some(slice) = self.slices.blocking_recv() else { return Ok(false) };
        let place = self.runtime.block_on(self.workers.0.wait(self.payer, 1));
        self.place = Some(place.map_err(io::Error::other)?);
        self.slice = slice;
        Ok(true)
    }
}

impl Read for Slices {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.slice.is_empty() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let length = into.len().min(self.slice.len());
        self.slice.copy_to_slice(into.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A slice that shows whether it is still held.
    fn marked(mark: &Arc<()>) -> Bytes {
        struct Marked(#[expect(dead_code, reason = "it only counts")] Arc<()>);
        impl AsRef<[u8]> for Marked {
            fn as_ref(&self) -> &[u8] {
                b"abc"
            }
        }
        Bytes::from_owner(Marked(mark.clone()))
    }

    #[tokio::test]
    async fn a_reader_holds_a_bounded_number_of_slices_and_sees_the_end() {
        let bulk = Bulk::new(1 << 20);
        let streaming = bulk.stream(Payer::Operators, |mut slices| {
            let mut all = Vec::new();
            slices.read_to_end(&mut all).map(|_| all.len())
        });
        let streaming = streaming.await.unwrap();
        let first = Arc::new(());
        assert!(streaming.feed(marked(&first)).await);
        for _ in 0..Streaming::<()>::BEHIND {
            assert!(streaming.feed(Bytes::from_static(b"abc")).await);
        }
        assert_eq!(Arc::strong_count(&first), 1, "the reader has let go of it");
        assert_eq!(streaming.finish().await.unwrap().unwrap(), 12);
    }

    #[tokio::test]
    async fn a_stream_that_waits_takes_no_place_from_other_work() {
        let bulk = Bulk::new(1 << 20);
        let mut streams = Vec::new();
        for _ in 0..8 {
            let streaming =
                bulk.stream(Payer::Operators, |mut slices| slices.read_to_end(&mut Vec::new()).is_ok());
            let streaming = streaming.await.unwrap();
            assert!(streaming.feed(Bytes::from_static(b"abc")).await);
            streams.push(streaming);
        }
        let large = super::super::SMALL + 1;
        assert_eq!(bulk.workers.run(Payer::Operators, large, || 7).await.unwrap(), 7);
        for streaming in streams {
            assert!(streaming.finish().await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_reader_that_ends_takes_no_more() {
        let bulk = Bulk::new(1 << 20);
        let streaming = bulk.stream(Payer::Operators, drop).await.unwrap();
        while streaming.feed(Bytes::from_static(b"abc")).await {}
        streaming.finish().await.unwrap();
    }
}
