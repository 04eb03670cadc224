//! What the vendor says of a task: its `data`, read once. All that follows looks at this, and nobody reads the text again.

use std::sync::Arc;

use crate::bulk::Room;
use crate::credits::Credits;
use crate::pricing::whole_figure;
use crate::wire::{RawObject, success_with};

/// Where a task stands, in the vendor's words. A word we do not know counts as in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Running,
    /// Finished, with a result.
    Succeeded,
    Failed,
}

/// The vendor's `data` about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where the task stands.
    pub progress: Progress,
    /// What it consumed, if that is a valid figure.
    pub raw: Option<Credits>,
    object: RawObject<Arc<str>>,
    /// Room for the bytes above.
    room: Room,
}

impl Report {
    /// Reads `data`; nothing if it is not a JSON object.
    pub fn parse(data: Arc<str>) -> Option<Self> {
        let object = RawObject::parse(data)?;
        let progress = match object.string("status").as_deref() {
            Some("SUCCESS") => Progress::Succeeded,
            Some("FAILED") => Progress::Failed,
            _ => Progress::Running,
        };
        let raw = object.get("consumed_credits").and_then(whole_figure);
        Some(Self { progress, raw, object, room: Room::default() })
    }

    /// Makes the report keep the room that its bytes need.
    pub(super) fn keep(&mut self, room: Room) {
        self.room = room;
    }

    /// The room that its bytes need, for an answer that is made of them.
    pub fn room(&self) -> Room {
        self.room.clone()
    }

    /// All of it, verbatim.
    pub fn data(&self) -> &Arc<str> {
        self.object.text()
    }

    /// The text of a field of it.
    pub fn text(&self, field: &str) -> Option<String> {
        self.object.string(field)
    }

    /// The request that the vendor repeats, as JSON; none: it repeats none that is an object.
    pub fn request(&self) -> Option<&str> {
        self.object.get("request").filter(|request| request.starts_with('{'))
    }

    /// The whole answer that shows it to a caller, with `changes`: names of fields and their new values as JSON.
    pub fn shown(&self, changes: &[(&str, String)]) -> String {
        success_with(&self.object, changes)
    }

    /// The answer to the create that it came with; `held`: the credits that are held. A terminal state is shown only after it
    /// is settled: the next status call shows it.
    pub fn accepted(&self, held: Credits) -> String {
        let mut changes = vec![("consumed_credits", held.to_string())];
        if self.progress != Progress::Running {
            changes.extend([("status", "\"IN_PROGRESS\"".into()), ("response", "null".into())]);
        }
        self.shown(&changes)
    }

    /// The vendor's id of the task, if it is one that we can ask for.
    pub(super) fn task_id(&self) -> Option<Arc<str>> {
        let text = self.object.get("task_id")?;
        let id = self.object.string("task_id").unwrap_or_else(|| text.to_owned());
        let usable = (1..=255).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_graphic())
            && !id.starts_with(['{', '[']);
        usable.then(|| id.into())
    }
}
