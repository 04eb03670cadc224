//! `tollgate admin identity-provider` and `identity`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use url::Url;

use super::super::CliError;
use super::client::{Column, QueryString, Session};
use super::named;
use crate::ids::{IdentityId, OrgId, ProviderId, UserId};

const PROVIDER: &[Column] = &[
    ("PROVIDER", "provider_id"),
    ("NAME", "name"),
    ("SERVES", "serves"),
    ("ORG", "org_id"),
    ("ISSUER", "issuer"),
    ("AUDIENCES", "audiences"),
    ("KEYS", "jwks_url"),
    ("MAKES USERS", "create_users"),
    ("SUSPENDED", "suspended"),
    ("CONSOLE CLIENT", "console_client_id"),
    ("HAS SECRET", "console_has_secret"),
    ("CONSOLE SCOPES", "console_scopes"),
];
const IDENTITY: &[Column] = &[
    ("IDENTITY", "identity_id"),
    ("PROVIDER", "provider_id"),
    ("SUBJECT", "subject"),
    ("USER", "user_id"),
    ("CREATED", "created_at"),
];

const PATH: &str = "/admin/v1/identity-providers";

#[derive(Debug, Subcommand)]
pub(super) enum ProviderCommand {
    /// Create an identity provider, whose tokens (JWT) are then accepted.
    Create {
        /// Name of the provider; unique.
        #[arg(long)]
        name: String,
        /// Id of the organisation that all users of the provider belong to; omitted: --org-claim names it.
        #[arg(long)]
        org: Option<OrgId>,
        /// The provider's users are operators.
        #[arg(long, conflicts_with_all = ["org", "org_claim"])]
        operators: bool,
        #[command(flatten)]
        settings: Box<ProviderSettings>,
    },
    /// List all identity providers.
    List,
    /// Show an identity provider.
    Show {
        /// Id of the identity provider.
        provider: ProviderId,
    },
    /// Change an identity provider. Settings that are not given stay.
    Update {
        /// Id of the identity provider.
        provider: ProviderId,
        /// Name of the provider; unique.
        #[arg(long)]
        name: Option<String>,
        /// Remove the setting of the organisation claim.
        #[arg(long, conflicts_with = "org_claim")]
        no_org_claim: bool,
        /// Remove the setting of the team claim.
        #[arg(long, conflicts_with = "team_claim")]
        no_team_claim: bool,
        /// Remove the settings of the role claim and of its values.
        #[arg(long, conflicts_with_all = ["role_claim", "roles"])]
        no_role_claim: bool,
        /// Nobody signs in at the console by the provider any more.
        #[arg(long, conflicts_with_all = ["console_client_id", "console_client_secret_file"])]
        no_console_client: bool,
        /// The console's client has no secret any more.
        #[arg(long, conflicts_with = "console_client_secret_file")]
        no_console_client_secret: bool,
        #[command(flatten)]
        settings: Box<ProviderSettings>,
    },
    /// Suspend an identity provider: its tokens are refused.
    Suspend {
        /// Id of the identity provider.
        provider: ProviderId,
    },
    /// Resume a suspended identity provider: its tokens are accepted again.
    Resume {
        /// Id of the identity provider.
        provider: ProviderId,
    },
    /// Delete an identity provider: its tokens are refused for good, its users stay.
    Delete {
        /// Id of the identity provider.
        provider: ProviderId,
    },
}

#[derive(Debug, Args)]
pub(super) struct ProviderSettings {
    /// Issuer: the 'iss' of the provider's tokens.
    #[arg(long)]
    issuer: Option<String>,
    /// Audiences, separated by commas; the 'aud' of a token must be one of them.
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCE")]
    audiences: Option<Vec<String>>,
    /// URL of the provider's keys (JWKS): https, or http on this machine.
    #[arg(long, value_name = "URL")]
    jwks_url: Option<Url>,
    /// Accepted signature algorithms, separated by commas; omitted: RS256, ES256 and EdDSA.
    #[arg(long, value_delimiter = ',')]
    algorithms: Option<Vec<String>>,
    /// Number of seconds by which the provider's clock may differ.
    #[arg(long, value_name = "N")]
    leeway_seconds: Option<u32>,
    /// Claim that identifies the user; omitted: 'sub'.
    #[arg(long, value_name = "CLAIM")]
    user_claim: Option<String>,
    /// Claim with the id or the name of the organisation.
    #[arg(long, value_name = "CLAIM")]
    org_claim: Option<String>,
    /// Claim with the name of the team.
    #[arg(long, value_name = "CLAIM")]
    team_claim: Option<String>,
    /// Claim with the role; a path such as 'realm_access.roles' leads to a claim within others.
    #[arg(long, value_name = "CLAIM")]
    role_claim: Option<String>,
    /// Roles by value of the role claim, such as bosses=admin; for operators ops=operator,support=operator_read.
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "VALUE=ROLE")]
    roles: Option<Vec<(String, String)>>,
    /// Whether an unknown subject becomes a new user.
    #[arg(long, value_name = "BOOL")]
    create_users: Option<bool>,
    /// Client id that the console has with the provider: people sign in there by it.
    #[arg(long, value_name = "ID")]
    console_client_id: Option<String>,
    /// File with the secret of that client, if it has one; '-': standard input.
    #[arg(long, value_name = "FILE")]
    console_client_secret_file: Option<PathBuf>,
    /// Scopes that the console asks for, separated by commas; omitted: 'openid' alone.
    #[arg(long, value_delimiter = ',', value_name = "SCOPE")]
    console_scopes: Option<Vec<String>>,
}

/// The text of a file that has a secret, without the end of its line.
fn secret_of(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(file).map(|read| text = read),
    };
    let wrong = |why: std::io::Error| {
        CliError::Usage(format!(
            "--console-client-secret-file {}: it cannot be read ({})",
            file.display(),
            why.kind()
        ))
    };
    read.map_err(wrong)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (value, role) = text.rsplit_once('=').ok_or("give VALUE=ROLE")?;
    Ok((value.to_owned(), role.to_owned()))
}

impl ProviderSettings {
    fn into_body(self, mut body: Map<String, Value>) -> Result<Value, CliError> {
        let role_map = self.roles.map(role_map).transpose()?;
        let secret = self.console_client_secret_file.as_deref().map(secret_of).transpose()?;
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(field.into(), value);
            }
        };
        set("issuer", self.issuer.map(Value::from));
        set("audiences", self.audiences.map(Value::from));
        set("jwks_url", self.jwks_url.map(|url| url.as_str().into()));
        set("algorithms", self.algorithms.map(Value::from));
        set("leeway_seconds", self.leeway_seconds.map(Value::from));
        set("user_claim", self.user_claim.map(Value::from));
        set("org_claim", self.org_claim.map(Value::from));
        set("team_claim", self.team_claim.map(Value::from));
        set("role_claim", self.role_claim.map(Value::from));
        set("role_map", role_map.map(Value::from));
        set("create_users", self.create_users.map(Value::from));
        set("console_client_id", self.console_client_id.map(Value::from));
        set("console_client_secret", secret.map(Value::from));
        set("console_scopes", self.console_scopes.map(Value::from));
        Ok(body.into())
    }
}

fn role_map(roles: Vec<(String, String)>) -> Result<Map<String, Value>, CliError> {
    let mut map = Map::new();
    for (value, role) in roles {
        if map.contains_key(&value) {
            return Err(CliError::Usage(format!("--roles: '{value}' is given twice")));
        }
        map.insert(value, role.into());
    }
    Ok(map)
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

pub(super) async fn provider(session: &Session, command: ProviderCommand) -> Result<(), CliError> {
    let path = |provider: ProviderId| format!("{PATH}/{provider}");
    let patch = async |provider, body| {
        session.patch(&path(provider), body).await.map(|changed| session.show(&changed, PROVIDER))
    };
    match command {
        ProviderCommand::Create { name, org, operators, settings } => {
            let serves = if operators { "operators" } else { "organisations" };
            let body = fields([("name", name.into()), ("org_id", json!(org)), ("serves", serves.into())]);
            let made = session.post(PATH, settings.into_body(body)?).await?;
            session.say(&made, named(&made, "provider_id"));
        }
        ProviderCommand::List => session.list(PATH, PROVIDER).await?,
        ProviderCommand::Show { provider } => session.show(&session.get(&path(provider)).await?, PROVIDER),
        ProviderCommand::Update {
            provider,
            name,
            no_org_claim,
            no_team_claim,
            no_role_claim,
            no_console_client,
            no_console_client_secret,
            settings,
        } => {
            let mut body = name.map(|name| fields([("name", name.into())])).unwrap_or_default();
            for (gone, field, nothing) in [
                (no_org_claim, "org_claim", Value::Null),
                (no_team_claim, "team_claim", Value::Null),
                (no_role_claim, "role_claim", Value::Null),
                (no_role_claim, "role_map", json!({})),
                (no_console_client, "console_client_id", Value::Null),
                (no_console_client_secret, "console_client_secret", Value::Null),
            ] {
                if gone {
                    body.insert(field.into(), nothing);
                }
            }
            patch(provider, settings.into_body(body)?).await?;
        }
        ProviderCommand::Suspend { provider } => patch(provider, json!({"suspended": true})).await?,
        ProviderCommand::Resume { provider } => patch(provider, json!({"suspended": false})).await?,
        ProviderCommand::Delete { provider } => {
            session.call(Method::DELETE, &path(provider), None).await?;
            let deleted = json!({"provider_id": provider, "deleted": true});
            session.say(&deleted, format_args!("{provider} is deleted"));
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// List the subjects of identity providers, and which user each of them is.
    List {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// List only identities of this user.
        #[arg(long)]
        user: Option<UserId>,
    },
    /// Link a subject of an identity provider to a user.
    Link {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Id of the identity provider.
        #[arg(long)]
        provider: ProviderId,
        /// Subject, as the provider's tokens name it.
        #[arg(long)]
        subject: String,
        /// Id of the user.
        #[arg(long)]
        user: UserId,
    },
    /// Unlink a subject of an identity provider from its user.
    Unlink {
        /// Id of the organisation.
        #[arg(long)]
        org: OrgId,
        /// Id of the identity.
        identity: IdentityId,
    },
}

pub(super) async fn identity(session: &Session, command: IdentityCommand) -> Result<(), CliError> {
    let path = |org: OrgId| format!("/admin/v1/orgs/{org}/identities");
    match command {
        IdentityCommand::List { org, user } => {
            session.list(&QueryString::default().add("user_id", user).of(&path(org)), IDENTITY).await?;
        }
        IdentityCommand::Link { org, provider, subject, user } => {
            let body = json!({"provider_id": provider, "subject": subject, "user_id": user});
            let linked = session.post(&path(org), body).await?;
            session.say(&linked, named(&linked, "identity_id"));
        }
        IdentityCommand::Unlink { org, identity } => {
            session.call(Method::DELETE, &format!("{}/{identity}", path(org)), None).await?;
            let unlinked = json!({"identity_id": identity, "unlinked": true});
            session.say(&unlinked, format_args!("{identity} is unlinked"));
        }
    }
    Ok(())
}
