//! The binary as a process: its output, its signals, its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

const PATIENCE: Duration = Duration::from_secs(60);

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
    command.env_remove("DATABASE_URL");
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
    let output = tokio::time::timeout(PATIENCE, command(args).output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
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
    err: Option<Lines<BufReader<ChildStderr>>>,
}

impl Process {
    pub fn start(args: &[&str]) -> Self {
        Self::with_env(args, &[])
    }

    pub fn with_env(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = command(args).envs(env.iter().copied()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err: Some(err) }
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The first line of JSON on standard output.
    pub async fn ready(&mut self) -> Value {
        json_line(&mut self.out, |_| true).await
    }

    /// The first event on standard error with this message; the rest is still to be read.
    pub async fn next_event(&mut self, message: &str) -> Value {
        json_line(self.err.as_mut().unwrap(), |event| event["message"] == message).await
    }

    /// The first event on standard error that is wanted; the rest is still to be read.
    pub async fn next_event_of(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        json_line(self.err.as_mut().unwrap(), wanted).await
    }

    /// The first event on standard error with this message.
    pub async fn event(&mut self, message: &str) -> Value {
        let event = self.next_event(message).await;
        let err = self.err.take().unwrap();
        // Somebody has to read on, or the process would wait for that.
        tokio::spawn(async move { err.into_inner().read_to_end(&mut Vec::new()).await });
        event
    }

    /// All that it writes to standard error from here to its end.
    pub fn rest_of_log(&mut self) -> tokio::task::JoinHandle<String> {
        let mut err = self.err.take().unwrap().into_inner();
        tokio::spawn(async move {
            let mut log = String::new();
            err.read_to_string(&mut log).await.unwrap();
            log
        })
    }

    pub fn terminate(&self) {
        kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGTERM).unwrap();
    }

    /// Its exit code; no signal may have ended it.
    pub async fn ended(mut self) -> i32 {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap();
        ended.unwrap().code().unwrap()
    }
}

async fn json_line<R: AsyncRead + Unpin>(
    lines: &mut Lines<BufReader<R>>,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
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
