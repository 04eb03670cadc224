//! `tollgate admin`: a client of the management API.

mod budgets;
mod client;
mod credits;
mod holds;
mod keys;
mod operators;
mod prices;
mod providers;
mod tenancy;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::client::Session;
use super::{CliError, block_on};
use crate::secret::Secret;

#[derive(Debug, Args)]
pub(super) struct AdminArgs {
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
    /// Certificates (PEM) to trust in place of public authorities: those of whoever signed the API's own.
    #[arg(long, env = "TOLLGATE_ADMIN_CA_FILE", value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
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
    /// Budgets: what a key, a user, a team or an organisation may spend in a time.
    #[command(subcommand)]
    Budget(budgets::BudgetCommand),
    /// API keys.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Identity providers: whose tokens (JWT) are taken in place of keys.
    #[command(subcommand)]
    IdentityProvider(providers::ProviderCommand),
    /// Who signs in with such tokens.
    #[command(subcommand)]
    Identity(providers::IdentityCommand),
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
    /// What an organisation pays of the list price for a time.
    #[command(subcommand)]
    PriceFactor(prices::FactorCommand),
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

fn instant(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "give an instant such as 2027-01-31T00:00:00Z".into())
}

fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// Runs one administrative command.
pub(super) fn run(args: AdminArgs) -> Result<(), CliError> {
    let Some(token) = args.token.filter(|token| !token.trim().is_empty()) else {
        return Err(CliError::Usage("who are you? Give --token, or set TOLLGATE_ADMIN_TOKEN".into()));
    };
    let session = Session::new(&args.url, args.ca_file.as_deref(), Secret::new(token.trim()), args.json)?;
    block_on(async move { by_api(&session, args.command).await })
}

async fn by_api(session: &Session, command: AdminCommand) -> Result<(), CliError> {
    match command {
        AdminCommand::Org(command) => tenancy::org(session, command).await,
        AdminCommand::Team(command) => tenancy::team(session, command).await,
        AdminCommand::User(command) => tenancy::user(session, command).await,
        AdminCommand::Budget(command) => budgets::run(session, command).await,
        AdminCommand::Holds(command) => holds::run(session, command).await,
        AdminCommand::Losses(args) => holds::losses(session, args).await,
        AdminCommand::Drift(args) => holds::drift(session, args).await,
        AdminCommand::OperatorToken(command) => operators::token(session, command).await,
        AdminCommand::AuditLog(args) => operators::log(session, args).await,
        AdminCommand::Me => operators::me(session).await,
        AdminCommand::Key(command) => keys::key(session, command).await,
        AdminCommand::IdentityProvider(command) => providers::provider(session, command).await,
        AdminCommand::Identity(command) => providers::identity(session, command).await,
        AdminCommand::Price(command) => prices::price(session, command).await,
        AdminCommand::PriceFactor(command) => prices::factor(session, command).await,
        AdminCommand::Credit(command) => credits::credit(session, command).await,
        AdminCommand::Usage(args) => credits::usage(session, args).await,
        AdminCommand::Statement(args) => credits::statement(session, args).await,
    }
}

/// The id of what was made.
fn named(made: &Value, field: &str) -> String {
    made[field].as_str().unwrap_or_default().to_owned()
}
