//! The books on disk: one JSON line per accepted task, only ever appended.
//!
//! A task is one line because its fate is settled when it is accepted. A create is answered after its line was
//! handed to the operating system (not to the disk), so a killed simulator remembers every task it ever
//! confirmed. One thread writes whatever is queued in one go, so creates wait for at most one short write.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::SimulatorError;
use super::task::Task;

/// Queues accepted tasks for the state file. Does nothing if there is no state file.
#[derive(Clone)]
pub(super) struct Journal(Option<UnboundedSender<JournalNote>>);

enum JournalNote {
    Line { text: Vec<u8>, written: oneshot::Sender<()> },
    Stop,
}

impl Journal {
    pub(super) fn none() -> Journal {
        Journal(None)
    }

    /// Queues the task at once, even if the returned future is never polled: a client that hangs up must not
    /// make the file forget what memory knows.
    pub(super) fn append(&self, task: &Task) -> impl Future<Output = ()> + use<> {
        let receipt = self.0.as_ref().and_then(|sender| {
            let mut text = serde_json::to_vec(task).ok()?;
            text.push(b'\n');
            let (written, receipt) = oneshot::channel();
            sender.send(JournalNote::Line { text, written }).ok()?;
            Some(receipt)
        });
        async move {
            if let Some(receipt) = receipt {
                // An error only says that the writer has stopped, which happens after the last answer.
                let _ = receipt.await;
            }
        }
    }

    /// Ends the writer after everything queued so far.
    pub(super) fn stop(&self) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(JournalNote::Stop);
        }
    }
}

/// The open, locked file and its queue; [`Writer::run`] is the thread.
pub(super) struct Writer {
    file: File,
    path: PathBuf,
    length: u64,
    queue: UnboundedReceiver<JournalNote>,
}

/// Opens the file, reads what it holds and cuts off a last line that a kill tore apart.
pub(super) fn open(path: &Path) -> Result<(Journal, Writer, Vec<Task>), SimulatorError> {
    let failed = |source| SimulatorError::StateFile { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    // It has prompts and accounts.
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path).map_err(failed)?;
    // Earlier versions made it readable by everybody. The file may be another user's: then its mode is that user's concern.
    drop(file.set_permissions(Permissions::from_mode(0o600)));
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(SimulatorError::StateFileInUse { path: path.to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }

    let mut tasks = Vec::new();
    let mut length = 0;
    let mut reader = BufReader::new(Read::by_ref(&mut file));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if line.last() != Some(&b'\n') {
            // Torn: its create was never answered.
            break;
        }
        let task = serde_json::from_slice(&line).map_err(|source| SimulatorError::StateFileLine {
            path: path.to_owned(),
            line: tasks.len() + 1,
            source,
        })?;
        tasks.push(task);
        length += line.len() as u64;
        line.clear();
    }
    file.set_len(length).map_err(failed)?;
    file.seek(SeekFrom::Start(length)).map_err(failed)?;

    let (sender, queue) = unbounded_channel();
    Ok((Journal(Some(sender)), Writer { file, path: path.to_owned(), length, queue }, tasks))
}

impl Writer {
    /// Writes until it is told to stop or until the last [`Journal`] is dropped. Blocks its thread.
    pub(super) fn run(mut self) {
        let mut notes = Vec::new();
        let mut stopping = false;
        while !stopping && self.queue.blocking_recv_many(&mut notes, 4096) > 0 {
            let mut text = Vec::new();
            let mut receipts = Vec::with_capacity(notes.len());
            for note in notes.drain(..) {
                match note {
                    JournalNote::Line { text: line, written } => {
                        text.extend_from_slice(&line);
                        receipts.push(written);
                    }
                    JournalNote::Stop => stopping = true,
                }
            }
            self.write(&text);
            for receipt in receipts {
                // The client may have hung up in the meantime.
                let _ = receipt.send(());
            }
        }
    }

    fn write(&mut self, text: &[u8]) {
        match self.file.write_all(text) {
            Ok(()) => self.length += text.len() as u64,
            Err(error) => {
                tracing::error!(
                    path = %self.path.display(),
                    %error,
                    "the simulator's state file cannot be written: tasks accepted now are lost at its next restart"
                );
                // Half a line in the middle would make the whole file unreadable.
                let repaired = self.file.set_len(self.length);
                let repaired = repaired.and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
                if let Err(error) = repaired {
                    tracing::error!(path = %self.path.display(), %error, "nor can it be cut back to its last good line");
                }
            }
        }
    }
}
