//! The binary as a process: its output, its signals, its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

use super::database::PATIENCE;
use super::leaks;

/// A directory that is gone after the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tollgate-process-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        // A database server's user, who is not root, must be able to pass.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Processes that work below this directory.
    pub fn processes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let works_here = |process: &PathBuf| {
            fs::read_link(process.join("cwd")).is_ok_and(|directory| directory.starts_with(&self.0))
        };
        entries.map(|entry| entry.path()).filter(works_here).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_remove("DATABASE_URL").envs(leaks::environment());
    command
}

/// What a process that has ended said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The JSON on standard output of a process that must have succeeded.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

/// Runs `tollgate` to its end.
pub async fn run(args: &[&str]) -> Said {
    run_with_env(args, &[]).await
}

/// The same with more variables in its environment.
pub async fn run_with_env(args: &[&str], env: &[(&str, &str)]) -> Said {
    let output = command(args).envs(env.iter().copied()).output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let said =
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
    leaks::look_at("a command's error", &said.err);
    leaks::assert_none();
    said
}

/// Runs `tollgate` to its end while nobody reads its standard output.
pub async fn run_unread(args: &[&str]) -> Said {
    let (_, writer) = std::io::pipe().unwrap();
    let ended = command(args).stdout(writer).spawn().unwrap().wait_with_output();
    let output = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Said { code: output.status.code().unwrap(), out: String::new(), err }
}

/// A running `tollgate`.
pub struct Process {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: UnboundedReceiver<String>,
    /// Who has it may read the next line of standard error.
    turn: Arc<Mutex<()>>,
    reading: JoinHandle<()>,
}

impl Process {
    pub fn start(args: &[&str]) -> Self {
        Self::with_env(args, &[])
    }

    pub fn with_env(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = command(args).envs(env.iter().copied()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (lines, err) = unbounded_channel();
        // Read whether or not a test looks: the process would wait for that, and every line is looked at.
        let turn = Arc::default();
        let reading = tokio::spawn(read(child.stderr.take().unwrap(), lines, Arc::clone(&turn)));
        Self { child, out, err, turn, reading }
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The first line of JSON on standard output.
    pub async fn ready(&mut self) -> Value {
        let out = &mut self.out;
        json_line(async || out.next_line().await.unwrap(), |_| true).await
    }

    /// The first event on standard error with this message; the rest is still to be read.
    pub async fn next_event(&mut self, message: &str) -> Value {
        self.next_event_of(|event| event["message"] == message).await
    }

    /// The first event on standard error that is wanted; the rest is still to be read.
    pub async fn next_event_of(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let err = &mut self.err;
        json_line(async || err.recv().await, wanted).await
    }

    /// The first event on standard error with this message.
    pub async fn event(&mut self, message: &str) -> Value {
        self.next_event(message).await
    }

    /// All that it writes to standard error from here to its end.
    pub fn rest_of_log(&mut self) -> tokio::task::JoinHandle<String> {
        let (_, none) = unbounded_channel();
        let mut err = std::mem::replace(&mut self.err, none);
        tokio::spawn(async move {
            let mut log = String::new();
            while let Some(line) = err.recv().await {
                log.push_str(&line);
                log.push('\n');
            }
            log
        })
    }

    /// Nobody reads its standard error while this is held.
    pub async fn leave_log_unread(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Whoever reads its standard error goes away.
    pub async fn close_log(&mut self) {
        self.reading.abort();
        assert!((&mut self.reading).await.unwrap_err().is_cancelled());
    }

    pub fn terminate(&self) {
        kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGTERM).unwrap();
    }

    /// Its exit code; no signal may have ended it.
    pub async fn ended(self) -> i32 {
        self.gone().await.unwrap()
    }

    /// Its exit code; none if a signal has ended it.
    pub async fn gone(mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap();
        leaks::assert_none();
        ended.unwrap().code()
    }
}

/// Looks at every line, and hands it on.
async fn read(err: ChildStderr, lines: UnboundedSender<String>, turn: Arc<Mutex<()>>) {
    let mut err = BufReader::new(err).lines();
    while let Ok(Some(line)) = err.next_line().await {
        let _turn = turn.lock().await;
        leaks::look_at("a process", &line);
        // Few tests wait for one.
        let _ = lines.send(line);
    }
}

async fn json_line(mut next: impl AsyncFnMut() -> Option<String>, wanted: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        while let Some(line) = next().await {
            if let Ok(value) = serde_json::from_str(&line)
                && wanted(&value)
            {
                return value;
            }
        }
        panic!("it ended before it said so");
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap()
}
