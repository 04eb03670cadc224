//! PostgreSQL's disk is full.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};

use super::postgres_kills::{LONGEST_ANSWER, slowest, until_noticed};
use crate::support::cluster::TestCluster;
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Plan;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report, skipped};
use crate::support::process::Scratch;

/// A small file system in memory. It is gone when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// At `path`, with room for so many megabytes; nothing where this user may mount nothing.
    fn mount(path: PathBuf, megabytes: u32) -> Option<Self> {
        fs::DirBuilder::new().mode(0o755).create(&path).unwrap();
        let options = format!("size={megabytes}m,mode=0755");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(path))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Fills what is left.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        for bytes in [1 << 16, 1 << 12, 1] {
            while ballast.write_all(&vec![0; bytes]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may have yet to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_a_freed_one_serves() {
    let scratch = Scratch::new();
    let Some(disk) = SmallDisk::mount(scratch.0.join("disk"), 96) else {
        return skipped("full disk", "this user may not mount a tmpfs");
    };
    let server = TestCluster::new().await;
    let place = disk.0.join("tables");
    fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
    let owner = fs::metadata(server.run("show data_directory").await.unwrap()).unwrap();
    chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    server.run(&format!("create tablespace small location '{}'", place.display())).await;
    // Not from within: a database is moved while nobody uses it.
    let url = server.url();
    let mut outside = PgConnection::connect(&url.replace("/ledger?", "/postgres?")).await.unwrap();
    outside.execute("alter database ledger set tablespace small").await.unwrap();
    let fleet = Fleet::start(Spec::on(&url)).await;
    let load = fleet.load(Plan { rate: scaled(60, 200), keyed: 4, again: true });
    let rounds = scaled(1, 5);
    let (mut last, mut served) = (Instant::now(), Duration::ZERO);
    for _ in 0..rounds {
        fleet.until_serving().await;
        disk.fill();
        // Rows fit into the pages that are there, for a while.
        until_noticed(&fleet).await;
        let sent = fleet.vendor.creates_received().await;
        until_noticed(&fleet).await;
        let more = fleet.vendor.creates_received().await - sent;
        // A page in which an update has made room takes one more hold, which may then be sent.
        assert!(more < 10, "{more} creates were sent on a full disk");
        last = Instant::now();
        disk.free();
        served = served.max(fleet.until_serving().await);
    }
    load.stop().await;
    let slowest = slowest(&fleet);
    let verdict = fleet.conclude(last).await;
    let fault = "disk of the tables full, then freed".into();
    report(&Row { fault, tried: rounds, verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
    assert!(slowest < LONGEST_ANSWER, "a customer waited {slowest:?}");
}
