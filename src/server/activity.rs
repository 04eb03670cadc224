//! What happens on a connection: which version of HTTP its client speaks, and how many requests are not answered yet.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::connections::InProgress;

#[derive(Default)]
pub(super) struct Activity {
    /// None before the first request.
    version: Option<Version>,
    requests: usize,
}

/// A request whose answer is not completely written; counted until it is dropped.
pub(super) struct Answering {
    activity: Arc<watch::Sender<Activity>>,
    pub(super) in_progress: Option<InProgress>,
}

impl Answering {
    pub(super) fn of(
        activity: &Arc<watch::Sender<Activity>>,
        version: Version,
        in_progress: InProgress,
    ) -> Self {
        activity.send_modify(|activity| {
            activity.version = Some(version);
            activity.requests += 1;
        });
        Self { activity: activity.clone(), in_progress: Some(in_progress) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.activity.send_modify(|activity| activity.requests -= 1);
    }
}

/// Hears of the activity.
#[derive(Clone)]
pub(super) struct Heard(watch::Receiver<Activity>);

pub(super) fn channel() -> (Arc<watch::Sender<Activity>>, Heard) {
    let (activity, heard) = watch::channel(Activity::default());
    (Arc::new(activity), Heard(heard))
}

impl Heard {
    /// Until `late`, if no request has begun by then; otherwise for ever. hyper's own time-out begins with the first byte of HTTP/1,
    /// and does not exist for HTTP/2.
    pub(super) async fn silent(&self, late: Pin<&mut Sleep>) {
        late.await;
        if self.0.borrow().version.is_some() {
            std::future::pending().await
        }
    }

    /// Until the first request, if that is one of HTTP/2; otherwise for ever.
    pub(super) async fn http2(&self) {
        drop(self.0.clone().wait_for(|activity| activity.version == Some(Version::HTTP_2)).await);
    }

    /// Until an HTTP/2 connection has had no request for so long.
    pub(super) async fn idle(&self, most: Duration) {
        self.http2().await;
        let mut quiet = self.0.clone();
        loop {
            let busy = quiet.borrow_and_update().requests > 0;
            let change = quiet.changed();
            // Each change is a request that began or ended.
            let changed = if busy { Ok(change.await) } else { tokio::time::timeout(most, change).await };
            if !matches!(changed, Ok(Ok(()))) {
                return;
            }
        }
    }
}
