//! What the poller stores of what the vendor says, and how it is erased.

use std::sync::Arc;
use std::time::Duration;

use super::{Poller, View};
use crate::bulk::SMALL;
use crate::ids::{HoldId, OrgId};
use crate::order::Excerpt;
use crate::store::{StoreError, StoredText, Task};
use crate::upstream::Report;

/// How long a create waits until its excerpt is stored, before it is sent without one.
const EXCERPT_TIMEOUT: Duration = Duration::from_secs(1);

impl Poller {
    /// Stores the excerpt of a create before it is sent, so that it is there whatever becomes of this process. Without it the
    /// create is sent all the same: whoever waits for a video must not pay for an operator's convenience.
    pub async fn note_request(&self, org: OrgId, hold: HoldId, excerpt: Box<Excerpt>) {
        let noted = self.contents.note_request(org, hold, *excerpt);
        let noted = tokio::time::timeout(EXCERPT_TIMEOUT, Box::pin(noted)).await;
        if let Err(error) = noted.unwrap_or(Err(StoreError::Timeout)) {
            tracing::warn!(%org, %hold, %error, "no excerpt of a create is stored");
        }
    }

    /// Erases the excerpt of a create that was refused.
    pub fn forget_request(&self, org: OrgId, hold: HoldId) {
        self.contents.forget_request(org, hold);
    }

    /// Stores what a report that does not end the task says, at most once a minute, and no megabytes: until the end a poll
    /// tells them again.
    pub(super) async fn note_progress(&self, task: &Task, report: &Report) -> Result<(), StoreError> {
        let stored = task.data.as_ref().and_then(StoredText::read);
        let is_news = report.data().len() <= SMALL && stored != Some(report.data());
        if is_news && !self.noted.contains_key(&task.hold) {
            self.contents.note_progress(task.org, task.hold, report.data()).await?;
            self.noted.insert(task.hold, ());
        }
        Ok(())
    }

    /// Stores what the vendor answered to a create. That it fails is no reason to refuse the answer to the caller.
    pub async fn note_create(&self, org: OrgId, hold: HoldId, report: &Report) {
        match self.contents.note_first(org, hold, report.data()).await {
            Ok(()) => self.noted.insert(hold, ()),
            Err(error) => {
                tracing::warn!(%org, %hold, %error, "the text of the vendor's answer to a create is not stored");
            }
        }
    }

    /// Notes, before a create is sent, that none of its content is kept after the end.
    pub async fn keep_none(&self, org: OrgId, hold: HoldId) -> Result<(), StoreError> {
        self.contents.keep_none(org, hold).await
    }

    /// Erases what is stored about a task of `org` and what is cached of it here. Of a task that goes on nothing is kept after
    /// its end.
    pub async fn erase(&self, task: &Task) -> Result<(), StoreError> {
        self.contents.erase(task.org, task.hold).await?;
        self.views.forget(task.org, task.hold, task.upstream_task.as_ref());
        Ok(())
    }

    /// Notes that a caller was answered with `view`: an end of which nothing is kept is erased soon.
    pub fn has_read(&self, view: &Arc<View>) {
        let task = view.task();
        if !view.is_final() || task.keeps_content || task.data.is_none() || view.note_shown() {
            return;
        }
        let (contents, view) = (self.contents.clone(), view.clone());
        self.tasks.spawn(async move {
            let task = view.task();
            if let Err(error) = contents.note_read(task).await {
                // It is erased an hour after the end.
                tracing::warn!(org = %task.org, hold = %task.hold, %error, "that content was read is not noted");
            }
        });
    }
}
