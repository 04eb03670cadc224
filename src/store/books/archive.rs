//! A sealed month as files: what `hold`, `entry` and `label` have of it, a manifest, and the proof that the files have what was
//! sealed. The files are loaded into temporary tables, and sums and chains are computed from those. `docs/months.md` has the form.

mod detach;

pub use self::detach::Moved;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use uuid::Uuid;

use super::statement::Month;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;
use crate::strict;

/// The name of the manifest in an archive's directory.
const MANIFEST: &str = "manifest.json";
/// The form of the files and of the manifest.
const FORM: u32 = 2;
/// The tables of an archive, each with the column that says to which month a row belongs, and the order of its rows.
///
/// Content is not among them: it is erased in its own time, and must not live on in files.
const TABLES: [(&str, &str, &str); 3] = [
    ("hold", "hold_id", "hold_id, org_id"),
    ("entry", "entry_id", "entry_id, org_id"),
    ("label", "hold_id", "hold_id, org_id, name collate \"C\""),
];

/// What an archive's directory contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub form: u32,
    pub month: String,
    /// The last migration of the database.
    pub schema: i64,
    pub files: Vec<ArchivedTable>,
    /// What each organisation's month was sealed with.
    pub seals: Vec<ArchivedSeal>,
}

/// The file of one table, in the text format of `COPY`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedTable {
    pub table: String,
    pub file: String,
    pub columns: Vec<String>,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// The seal of one organisation's month; chains in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedSeal {
    pub org: Uuid,
    pub holds: i64,
    pub entries: i64,
    pub consumed: i64,
    pub corrected: i64,
    pub granted: i64,
    pub chain_before: String,
    pub chain: String,
}

const SEALS: &str = "select s.org_id as org, s.holds, s.entries, s.consumed, s.corrected, s.granted, \
    encode(s.chain_before, 'hex') as chain_before, encode(s.chain, 'hex') as chain \
    from month_seal s where s.month = $1 order by s.org_id";

/// A month of the ledger, as an operator who archives sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedMonth {
    pub month: time::Date,
    pub orgs: i64,
    pub holds: i64,
    pub entries: i64,
    /// Charged tasks of it that are in an archive and not in the database.
    pub archived: i64,
}

impl Database {
    /// The months of which at least one organisation's is sealed, oldest first.
    pub async fn sealed_months(&self) -> Result<Vec<SealedMonth>, StoreError> {
        let months = sqlx::query_as(
            "select s.month, count(*) as orgs, sum(s.holds)::bigint as holds, sum(s.entries)::bigint as entries, \
               coalesce((select sum(a.tasks) from archived_charge a where a.month = s.month), 0)::bigint as archived \
             from month_seal s group by s.month order by s.month",
        );
        let months: Vec<(time::Date, i64, i64, i64, i64)> = months.fetch_all(self.pool()).await?;
        let sealed =
            |(month, orgs, holds, entries, archived)| SealedMonth { month, orgs, holds, entries, archived };
        Ok(months.into_iter().map(sealed).collect())
    }

    /// Writes a month into a new directory, and proves that the files have what was sealed. The manifest is written last: without
    /// one there is no archive. `Conflict` if an organisation's month is not sealed yet.
    pub async fn archive_month(&self, month: Month, directory: &Path) -> Result<Manifest, StoreError> {
        let mut connection = self.connection_for_long_work("tollgate-archive", Deadline::INVARIANT).await?;
        let seals = sealed(&mut connection, month).await?;
        if self.is_archived(month).await? {
            let what = format!("{month} is archived: its charged tasks are in the files that they left for");
            return Err(StoreError::Conflict(what));
        }
        fs::create_dir(directory).map_err(|error| unwritable(directory, &error))?;
        connection.execute("begin isolation level repeatable read read only").await?;
        let mut files = Vec::new();
        for table in TABLES {
            files.push(export(&mut connection, month, table, directory).await?);
        }
        connection.execute("commit").await?;
        let schema: i64 = sqlx::query_scalar("select max(version) from _sqlx_migrations")
            .fetch_one(&mut connection)
            .await?;
        let manifest = Manifest { form: FORM, month: month.to_string(), schema, files, seals };
        connection.execute("begin").await?;
        try_in(&mut connection, directory, &manifest).await?;
        prove(&mut connection, month, &manifest.seals).await?;
        connection.execute("rollback").await?;
        connection.close().await?;
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|error| StoreError::Invalid(format!("the manifest cannot be written: {error}")))?;
        write_synced(&directory.join(MANIFEST), text.as_bytes())?;
        sync(directory)?;
        Ok(manifest)
    }

    /// Proves that the files of an archive are those of its manifest, and that they have what this database sealed.
    pub async fn verify_archive(&self, directory: &Path) -> Result<Manifest, StoreError> {
        let archive = Archive::read(directory)?;
        let mut connection = self.connection_for_long_work("tollgate-archive", Deadline::INVARIANT).await?;
        connection.execute("begin").await?;
        archive.load_proved(&mut connection).await?;
        connection.execute("rollback").await?;
        connection.close().await?;
        Ok(archive.manifest)
    }
}

/// An archive whose manifest has been read.
struct Archive<'a> {
    directory: &'a Path,
    month: Month,
    manifest: Manifest,
    /// SHA-256 of the manifest, in hexadecimal digits.
    digest: String,
}

impl<'a> Archive<'a> {
    fn read(directory: &'a Path) -> Result<Self, StoreError> {
        let path = directory.join(MANIFEST);
        let text = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
        let manifest: Manifest = strict::read_json(&text)
            .map_err(|error| StoreError::Invalid(format!("{}: {error}", path.display())))?;
        let (form, named) = (manifest.form, &manifest.month);
        if form != FORM {
            return Err(StoreError::Invalid(format!("{}: its form {form} is not known", path.display())));
        }
        let month = named
            .parse()
            .map_err(|_| StoreError::Invalid(format!("{}: '{named}' is no month", path.display())))?;
        Ok(Self { directory, month, manifest, digest: hex(&Sha256::digest(&text)) })
    }

    /// Loads the files into temporary tables, in the transaction that the connection is in, and proves that they are those of the
    /// manifest and have what this database sealed.
    async fn load_proved(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if sealed(connection, self.month).await? != self.manifest.seals {
            return Err(StoreError::Conflict(format!(
                "what {} says of the seals is not what this database has",
                self.directory.join(MANIFEST).display()
            )));
        }
        try_in(connection, self.directory, &self.manifest).await?;
        prove(connection, self.month, &self.manifest.seals).await
    }
}

/// The seals of a month, of which no organisation must lack its own.
async fn sealed(connection: &mut PgConnection, month: Month) -> Result<Vec<ArchivedSeal>, StoreError> {
    let unsealed: i64 = sqlx::query_scalar(
        "select count(*) from org_balance b where not exists (select from month_seal s where s.org_id = b.org_id and s.month = $1) \
         and (exists (select from hold h where h.org_id = b.org_id and h.hold_id >= first_id($1::timestamp at time zone 'UTC') \
                and h.hold_id < first_id(($1 + interval '1 month') at time zone 'UTC')) \
           or exists (select from entry e where e.org_id = b.org_id and e.entry_id >= first_id($1::timestamp at time zone 'UTC') \
                and e.entry_id < first_id(($1 + interval '1 month') at time zone 'UTC')))",
    )
    .bind(month.first_day())
    .fetch_one(&mut *connection)
    .await?;
    if unsealed > 0 {
        return Err(StoreError::Conflict(format!("{month} of {unsealed} organisations is not sealed yet")));
    }
    let rows = sqlx::query(SEALS).bind(month.first_day()).fetch_all(&mut *connection).await?;
    let seals = rows.iter().map(seal).collect::<Result<Vec<ArchivedSeal>, _>>()?;
    if seals.is_empty() {
        return Err(StoreError::NotFound(format!("nothing is there of {month}")));
    }
    Ok(seals)
}

fn seal(row: &PgRow) -> Result<ArchivedSeal, sqlx::Error> {
    Ok(ArchivedSeal {
        org: row.try_get("org")?,
        holds: row.try_get("holds")?,
        entries: row.try_get("entries")?,
        consumed: row.try_get("consumed")?,
        corrected: row.try_get("corrected")?,
        granted: row.try_get("granted")?,
        chain_before: row.try_get("chain_before")?,
        chain: row.try_get("chain")?,
    })
}

async fn columns(connection: &mut PgConnection, table: &str) -> Result<Vec<String>, StoreError> {
    let columns = sqlx::query_scalar(
        "select format('%I', attname) from pg_attribute \
         where attrelid = to_regclass($1) and attnum > 0 and not attisdropped order by attnum",
    );
    Ok(columns.bind(table).fetch_all(connection).await?)
}

/// Copies the rows of one table into a file.
async fn export(
    connection: &mut PgConnection,
    month: Month,
    (table, key, order): (&str, &str, &str),
    directory: &Path,
) -> Result<ArchivedTable, StoreError> {
    let columns = columns(connection, table).await?;
    let (first, last): (Uuid, Uuid) = sqlx::query_as(
        "select first_id($1::timestamp at time zone 'UTC'), first_id(($1 + interval '1 month') at time zone 'UTC')",
    )
    .bind(month.first_day())
    .fetch_one(&mut *connection)
    .await?;
    let statement = format!(
        "copy (select {} from {table} where {key} >= '{first}' and {key} < '{last}' order by {order}) to stdout",
        columns.join(", ")
    );
    let name = format!("{table}.copy");
    let path = directory.join(&name);
    let mut file = BufWriter::new(File::create_new(&path).map_err(|error| unwritable(&path, &error))?);
    let (mut digest, mut rows, mut bytes) = (Sha256::new(), 0_u64, 0_u64);
    let mut copied = connection.copy_out_raw(&statement).await?;
    while let Some(part) = copied.try_next().await? {
        file.write_all(&part).map_err(|error| unwritable(&path, &error))?;
        digest.update(&part);
        // In this format a line break within a value is escaped.
        rows = rows.saturating_add(lines(&part));
        bytes = bytes.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
    }
    let file = file.into_inner().map_err(|error| unwritable(&path, error.error()))?;
    file.sync_all().map_err(|error| unwritable(&path, &error))?;
    Ok(ArchivedTable {
        table: table.into(),
        file: name,
        columns,
        rows,
        bytes,
        sha256: hex(&digest.finalize()),
    })
}

/// Loads the files into temporary tables, in the transaction that the connection is in. A column that a later migration added has its
/// default there.
async fn try_in(
    connection: &mut PgConnection,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    for (table, _, _) in TABLES {
        let files: Vec<&ArchivedTable> = manifest.files.iter().filter(|file| file.table == table).collect();
        let [listed] = files[..] else {
            return Err(StoreError::Invalid(format!(
                "the manifest does not have exactly one file of {table}"
            )));
        };
        let known = columns(connection, table).await?;
        if listed.columns.iter().any(|column| !known.contains(column)) || listed.file.contains(['/', '\\']) {
            return Err(StoreError::Invalid(format!("{table} has other columns than this database")));
        }
        let temporary =
            format!("create temporary table {table} (like {table} including defaults) on commit drop");
        connection.execute(AssertSqlSafe(temporary)).await?;
        load(connection, listed, &directory.join(&listed.file)).await?;
    }
    Ok(())
}

/// Computes sums and chains of a month, and compares them with its seals. The connection's own tables go before those of the ledger:
/// if it has loaded files, it is those that are proved.
async fn prove(
    connection: &mut PgConnection,
    month: Month,
    seals: &[ArchivedSeal],
) -> Result<(), StoreError> {
    for seal in seals {
        let same: bool = sqlx::query_scalar(
            "select (f.holds, f.entries, f.consumed, f.corrected, f.granted, encode(f.chain, 'hex')) = ($4, $5, $6, $7, $8, $9) \
             from month_figures($1, $2, decode($3, 'hex')) f",
        )
        .bind(seal.org)
        .bind(month.first_day())
        .bind(&seal.chain_before)
        .bind(seal.holds)
        .bind(seal.entries)
        .bind(seal.consumed)
        .bind(seal.corrected)
        .bind(seal.granted)
        .bind(&seal.chain)
        .fetch_one(&mut *connection)
        .await?;
        if !same {
            let what = format!("the rows are not what was sealed of org {} in {month}", seal.org);
            return Err(StoreError::Conflict(what));
        }
    }
    Ok(())
}

/// Loads one file, and compares it with what the manifest says of it.
async fn load(connection: &mut PgConnection, listed: &ArchivedTable, path: &Path) -> Result<(), StoreError> {
    const PART: usize = 1 << 20;
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let statement = format!("copy {} ({}) from stdin", listed.table, listed.columns.join(", "));
    let mut copying = connection.copy_in_raw(&statement).await?;
    let (mut digest, mut part) = (Sha256::new(), vec![0; PART]);
    loop {
        let read = file.read(&mut part).map_err(|error| unreadable(path, &error))?;
        let Some(some) = part.get(..read).filter(|some| !some.is_empty()) else { break };
        digest.update(some);
        copying.send(some).await?;
    }
    let rows = copying.finish().await?;
    if rows != listed.rows || hex(&digest.finalize()) != listed.sha256 {
        return Err(StoreError::Conflict(format!(
            "{} is not the file that the manifest names",
            path.display()
        )));
    }
    Ok(())
}

fn lines(part: &[u8]) -> u64 {
    u64::try_from(part.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn write_synced(path: &PathBuf, text: &[u8]) -> Result<(), StoreError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    written.map_err(|error| unwritable(path, &error))
}

/// Makes sure that a file, or what a directory lists, is on the disk.
fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| unreadable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Invalid(format!("{} cannot be written: {error}", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Invalid(format!("{} cannot be read: {error}", path.display()))
}
