//! The first contents of a demo: an organisation with credits, a user with an API key, an operator token. The first start
//! creates them through the functions that the management API calls; later starts find them again.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::cannot_write;
use super::first_clip::PRICE;
use crate::api_key::PresentedKey;
use crate::cli::CliError;
use crate::credits::Credits;
use crate::ids::{OrgId, UserId};
use crate::secret::Secret;
use crate::store::{
    Acting, KeySpec, NewOrg, NewUser, Once, OperatorRole, OrgChange, OrgFilter, Role, Slice, UserFilter, Why,
};

const NAME: &str = "demo";
const CREDITS: Credits = Credits::new(100_000);

pub(super) struct Furnished {
    pub org: OrgId,
    pub key: Secret,
    pub operator_token: Secret,
    /// Whether the organisation has no clip yet, and shall have one.
    pub wants_clip: bool,
}

pub(super) async fn furnish(database: &Acting, dir: &Path, unlimited: bool) -> Result<Furnished, CliError> {
    let org = organisation(database).await?;
    grant(database, org, if unlimited { CREDITS } else { with_first_clip()? }).await?;
    let balance = database.balance(org).await?;
    let is_unused =
        balance.is_some_and(|balance| balance.consumed == Credits::ZERO && balance.open_tasks == 0);
    let limit = Some(unlimited.then_some(0));
    let limits = OrgChange {
        create_per_minute: limit,
        status_per_minute: limit,
        max_open_tasks: limit,
        ..OrgChange::default()
    };
    database.update_org(org, limits, None).await?;
    let key = key(database, org, &dir.join("api_key")).await?;
    let operator_token = operator_token(database, &dir.join("operator_token")).await?;
    Ok(Furnished { org, key, operator_token, wants_clip: is_unused && !unlimited })
}

async fn organisation(database: &Acting) -> Result<OrgId, CliError> {
    let filter = OrgFilter { name: Some(NAME.into()), ..OrgFilter::default() };
    match database.list_orgs(&filter, Slice { after: None, limit: 1 }).await?.first() {
        Some(org) => Ok(org.org_id),
        None => Ok(database.add_org(&NewOrg { name: NAME.into(), time_zone: "UTC".into() }).await?),
    }
}

/// After its first clip a demo has as many credits as it says.
fn with_first_clip() -> Result<Credits, CliError> {
    let sum = CREDITS.checked_add(PRICE);
    sum.ok_or_else(|| CliError::Failed("the credits of a demo are too many".into()))
}

async fn grant(database: &Acting, org: OrgId, credits: Credits) -> Result<(), CliError> {
    let has_none = database.balance(org).await?.is_some_and(|balance| balance.granted == Credits::ZERO);
    if has_none {
        let why = Why { reason: "the demo's own credits", external_ref: None };
        // Idempotent, because two demos may start on one database at once.
        let once = format!("tollgate-demo-{org}");
        database.grant(org, credits, None, why, Some(Once { key: &once, body: b"" })).await?;
    }
    Ok(())
}

async fn user(database: &Acting, org: OrgId) -> Result<UserId, CliError> {
    let filter = UserFilter { name: Some(NAME.into()), ..UserFilter::default() };
    match database.list_users(org, &filter, Slice { after: None, limit: 1 }).await?.first() {
        Some(user) => Ok(user.user_id),
        None => {
            let new = NewUser { name: NAME.into(), role: Role::Member, team: None };
            Ok(database.add_user(org, &new).await?)
        }
    }
}

/// The API key of an earlier start, if it is still valid and of this organisation; otherwise a new one.
async fn key(database: &Acting, org: OrgId, file: &Path) -> Result<Secret, CliError> {
    let kept = fs::read_to_string(file).unwrap_or_default();
    if let Some(presented) = PresentedKey::parse(kept.trim())
        && let Some(found) = database.find_key(&presented.public_id).await?
        && found.principal.org == org
        && !found.revoked
        && found.secret.matches(&presented.secret)
    {
        return Ok(Secret::new(kept.trim()));
    }
    let user = user(database, org).await?;
    let spec = KeySpec { name: NAME.into(), env: NAME.into(), ..KeySpec::default() };
    let (_, key) = database.create_key(org, user, &spec).await?;
    keep(file, &key)?;
    Ok(key)
}

/// The operator token of an earlier start, if it is still valid; otherwise a new one.
async fn operator_token(database: &Acting, file: &Path) -> Result<Secret, CliError> {
    let kept = fs::read_to_string(file).unwrap_or_default();
    if let Some(presented) = PresentedKey::parse(kept.trim())
        && database.find_operator(&presented).await?.is_some()
    {
        return Ok(Secret::new(kept.trim()));
    }
    let (_, token) = database.create_operator_token(NAME, OperatorRole::Operator, None).await?;
    keep(file, &token)?;
    Ok(token)
}

/// Writes a secret into a file that only its owner can read.
fn keep(file: &Path, secret: &Secret) -> Result<(), CliError> {
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    written
        .and_then(|mut file| file.write_all(secret.expose().as_bytes()))
        .map_err(|error| cannot_write(file, &error))
}
