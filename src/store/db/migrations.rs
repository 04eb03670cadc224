//! The migrations, embedded in the program. A macro of our own embeds them, because `sqlx::migrate!` builds the
//! database driver and TLS a second time, for the compiler itself, which doubles the most expensive part of a cold
//! build.

use std::sync::LazyLock;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! migrations {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $name, ".sql")))),+]
    };
}

/// The name, without ending, and the text of each file in `migrations/`.
const FILES: &[(&str, &str)] = migrations![
    "0001_schema",
    "0002_organisations",
    "0003_keys_and_identity",
    "0004_ledger",
    "0005_budgets",
    "0006_prices",
    "0007_credits_and_usage",
    "0008_changes",
    "0009_reporting",
    "0010_budget_counting",
    "0011_quotas",
    "0012_unpaid_holds",
    "0013_exposure",
    "0014_content",
    "0015_proofs",
    "0016_open_tasks",
    "0017_excerpts",
    "0018_former_factors_and_pseudonyms",
    "0019_unanswered_creates",
    "0020_evidence_by_hand",
    "0021_look_alike_names",
    "0022_seals",
    "0023_partitions",
    "0024_month_seals",
    "0025_console",
    "0026_members",
    "0027_open_audits",
    "0028_labels",
    "0029_deleted_balances",
    "0030_archived_months",
    "0031_sign_in",
    "0032_oldest_tasks",
    "0033_months_of_holds",
    "0034_bounds",
    "0035_looks_of_names",
    "0036_totals",
    "0037_task_totals",
    "0038_task_totals_indexes",
    "0039_names_by_look",
];

/// All migrations, ordered by version.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    Migrator::with_migrations(FILES.iter().filter_map(|(name, text)| migration(name, text)).collect())
});

/// The migration of a file: `0001_schema` is version 1, "schema".
fn migration(name: &str, text: &'static str) -> Option<Migration> {
    let (version, description) = name.split_once('_')?;
    let description = description.replace('_', " ");
    let version = version.parse().ok()?;
    Some(Migration::new(version, description.into(), MigrationType::Simple, text.into_sql_str(), false))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_embedded_under_a_version_of_its_own() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let there: BTreeSet<String> = std::fs::read_dir(directory)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".sql").map(str::to_owned))
            .collect();
        let embedded: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, there);
        let versions: BTreeSet<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions.len(), FILES.len());
        assert!(MIGRATIONS.iter().all(|migration| !migration.description.contains('_')));
    }
}
