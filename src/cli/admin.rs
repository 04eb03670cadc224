//! `tollgate admin`: a client of the management API.

mod client;
mod credits;
mod holds;
mod operators;
mod prices;
mod tenancy;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::client::Session;
use super::output::{json, table};
use super::{CliError, DatabaseArgs, block_on};
use crate::clock::Clock;
use crate::ids::{KeyId, OrgId, UserId};
use crate::ledger::{Database, KeySpec, Rates};
use crate::secret::Secret;

#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The management API: a gateway's admin.listen.
    #[arg(
        long,
        env = "TOLLGATE_ADMIN_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL",
        global = true
    )]
    url: String,
    /// An operator's token, or the API key of an organisation's admin.
    #[arg(long, env = "TOLLGATE_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Organisations: each owns a balance.
    #[command(subcommand)]
    Org(tenancy::OrgCommand),
    /// Teams of an organisation.
    #[command(subcommand)]
    Team(tenancy::TeamCommand),
    /// Users of an organisation.
    #[command(subcommand)]
    User(tenancy::UserCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Credits.
    #[command(subcommand)]
    Credit(credits::CreditCommand),
    /// What tasks cost, split by whatever is asked for.
    Usage(credits::UsageArgs),
    /// A month of an organisation, line by line.
    Statement(credits::StatementArgs),
    /// Price books.
    #[command(subcommand)]
    Price(prices::PriceCommand),
    /// Tasks whose outcome is unknown.
    #[command(subcommand)]
    Holds(holds::HoldsCommand),
    /// What the platform lost, or may have lost.
    Losses(holds::DaysArgs),
    /// What was booked beside what the vendor reported, by account and by task.
    Drift(holds::DaysArgs),
    /// Tokens of those who run the platform.
    #[command(subcommand)]
    OperatorToken(operators::TokenCommand),
    /// Who changed what, newest first.
    AuditLog(operators::LogArgs),
    /// Who you are.
    Me,
}

#[derive(Debug, Clone, Copy)]
struct Limit(Option<i32>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "default" => Ok(Limit(None)),
        "unlimited" => Ok(Limit(Some(0))),
        _ => match text.parse() {
            Ok(number @ 1..) => Ok(Limit(Some(number))),
            _ => Err("give a number from 1, 'default' or 'unlimited'".into()),
        },
    }
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key. It is shown once.
    Create {
        /// Of which organisation.
        #[arg(long)]
        org: OrgId,
        /// For which of its users.
        #[arg(long)]
        user: UserId,
        /// What to call it.
        #[arg(long, default_value = "default")]
        name: String,
        /// The second part of its text.
        #[arg(long, default_value = "live")]
        env: String,
        /// When it ends, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_parser = instant)]
        expires: Option<OffsetDateTime>,
        /// Task types it may create; all if left out.
        #[arg(long, value_delimiter = ',')]
        types: Option<Vec<String>>,
        /// Networks it may be used from, such as 10.0.0.0/8; all if left out.
        #[arg(long, value_delimiter = ',')]
        networks: Option<Vec<IpNet>>,
        /// Creates a minute.
        #[arg(long, value_name = "N")]
        create_per_minute: Option<u32>,
        /// Other calls a minute.
        #[arg(long, value_name = "N")]
        status_per_minute: Option<u32>,
    },
    /// List an organisation's keys.
    List {
        /// Which organisation.
        #[arg(long)]
        org: OrgId,
    },
    /// Revoke a key, everywhere within a second.
    Revoke {
        /// Which.
        key: KeyId,
    },
}

fn instant(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "give an instant such as 2027-01-31T00:00:00Z".into())
}

fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// Runs one administrative command.
pub(super) fn run(args: AdminArgs) -> Result<(), CliError> {
    let as_json = args.json;
    block_on(async move {
        match args.command {
            AdminCommand::Key(_) | AdminCommand::Price(_) => {}
            _ => {
                let Some(token) = args.token.filter(|token| !token.trim().is_empty()) else {
                    return Err(CliError::Usage(
                        "who are you? Give --token, or set TOLLGATE_ADMIN_TOKEN".into(),
                    ));
                };
                let session = Session::new(&args.url, Secret::new(token.trim()), as_json)?;
                return by_api(&session, args.command).await;
            }
        }
        let database = args.database.database().await?;
        database.check_schema().await?;
        match args.command {
            AdminCommand::Key(command) => key(&database, command, as_json).await,
            AdminCommand::Price(command) => prices::run(&database, command, as_json).await,
            _ => Ok(()),
        }
    })
}

async fn by_api(session: &Session, command: AdminCommand) -> Result<(), CliError> {
    match command {
        AdminCommand::Org(command) => tenancy::org(session, command).await,
        AdminCommand::Team(command) => tenancy::team(session, command).await,
        AdminCommand::User(command) => tenancy::user(session, command).await,
        AdminCommand::Holds(command) => holds::run(session, command).await,
        AdminCommand::Losses(args) => holds::losses(session, args).await,
        AdminCommand::Drift(args) => holds::drift(session, args).await,
        AdminCommand::OperatorToken(command) => operators::token(session, command).await,
        AdminCommand::AuditLog(args) => operators::log(session, args).await,
        AdminCommand::Me => operators::me(session).await,
        AdminCommand::Credit(command) => credits::credit(session, command).await,
        AdminCommand::Usage(args) => credits::usage(session, args).await,
        AdminCommand::Statement(args) => credits::statement(session, args).await,
        AdminCommand::Key(_) | AdminCommand::Price(_) => Ok(()),
    }
}

/// The id of what was made.
fn named(made: &Value, field: &str) -> String {
    made[field].as_str().unwrap_or_default().to_owned()
}

/// A key for types nobody offers is a key for nothing.
async fn check_types(database: &Database, types: &[String]) -> Result<(), CliError> {
    let book = match database.active_book_version().await? {
        Some(version) => database.book(version).await?,
        None => None,
    };
    let known: Vec<String> =
        book.iter().flat_map(|book| book.prices.keys()).map(ToString::to_string).collect();
    match types.iter().find(|wanted| !known.contains(wanted)) {
        None => Ok(()),
        Some(unknown) => Err(CliError::Usage(format!(
            "--types: '{unknown}' is not in the price book in force: {}",
            known.join(", ")
        ))),
    }
}

async fn key(database: &Database, command: KeyCommand, as_json: bool) -> Result<(), CliError> {
    match command {
        KeyCommand::Create {
            org,
            user,
            name,
            env,
            expires,
            types,
            networks,
            create_per_minute,
            status_per_minute,
        } => {
            let types =
                types.map(|types| types.iter().map(|text| text.trim().to_owned()).collect::<Vec<_>>());
            check_types(database, types.as_deref().unwrap_or_default()).await?;
            if expires.is_some_and(|end| end <= Clock.wall()) {
                return Err(CliError::Usage("--expires is in the past: the key would never be valid".into()));
            }
            let spec = KeySpec {
                name,
                env,
                expires_at: expires,
                allowed_types: types,
                allowed_networks: networks,
                rates: Rates { create: create_per_minute, status: status_per_minute },
            };
            let (key, secret) = database.create_key(org, user, &spec).await?;
            if as_json {
                json(&json!({ "key_id": key, "api_key": secret.expose() }));
            } else {
                println!("{key}\n{}\nkeep it: it is not shown again", secret.expose());
            }
        }
        KeyCommand::List { org } => {
            let keys = database.keys(org).await?;
            if as_json {
                json(&keys);
            } else {
                let optional = |at: Option<OffsetDateTime>| at.map_or_else(|| "-".to_owned(), text);
                let row = |key: &crate::ledger::KeyInfo| {
                    vec![
                        key.key_id.to_string(),
                        key.public_id.clone(),
                        key.name.clone(),
                        key.user_id.to_string(),
                        text(key.created_at),
                        optional(key.expires_at),
                        optional(key.revoked_at),
                        key.allowed_types.as_ref().map_or_else(|| "all".to_owned(), |types| types.join(",")),
                        key.allowed_networks
                            .as_ref()
                            .map_or_else(|| "all".to_owned(), |networks| networks.join(",")),
                    ]
                };
                let header = [
                    "KEY",
                    "PUBLIC ID",
                    "NAME",
                    "USER",
                    "CREATED",
                    "EXPIRES",
                    "REVOKED",
                    "TYPES",
                    "NETWORKS",
                ];
                table(&header, &keys.iter().map(row).collect::<Vec<_>>());
            }
        }
        KeyCommand::Revoke { key } => {
            let first = database.revoke_key(key).await?;
            if as_json {
                json(&json!({ "key_id": key, "revoked": true }));
            } else {
                println!("{key} {}", if first { "is revoked" } else { "was revoked already" });
            }
        }
    }
    Ok(())
}
