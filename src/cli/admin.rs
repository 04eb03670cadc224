//! `tollgate admin`: a client of the management API, one file for each group of commands.

mod book_file;
mod budgets;
mod client;
mod credits;
mod holds;
mod keys;
mod members;
mod operators;
mod orgs;
mod prices;
mod providers;
mod users;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::client::Session;
use super::{CliError, block_on};
use crate::secret::Secret;

const DEFAULT_URL: &str = "http://127.0.0.1:8081";

#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// Base URL of the management API, which a gateway serves on admin.listen, and for organisations on
    /// server.listen; with or without /admin/v1 at its end.
    #[arg(
        long,
        env = "TOLLGATE_ADMIN_URL",
        default_value = DEFAULT_URL,
        value_name = "URL",
        global = true
    )]
    url: String,
    /// Operator token, or API key of an organisation's admin or member.
    #[arg(long, env = "TOLLGATE_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// PEM file of the certificate authorities to trust for the management API, instead of those that
    /// this machine trusts.
    #[arg(long, env = "TOLLGATE_ADMIN_CA_FILE", value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Manage organisations, which own the balances.
    #[command(subcommand)]
    Org(orgs::OrgCommand),
    /// Manage the teams of an organisation.
    #[command(subcommand)]
    Team(users::TeamCommand),
    /// Manage the users of an organisation.
    #[command(subcommand)]
    User(users::UserCommand),
    /// Manage budgets: what a key, a user, a team or an organisation may spend in a period.
    #[command(subcommand)]
    Budget(budgets::BudgetCommand),
    /// Ask for more budget, and grant or decline what members ask for.
    #[command(subcommand)]
    BudgetRequest(members::RequestCommand),
    /// Manage API keys.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Set what members may do with keys of their own.
    #[command(subcommand)]
    KeyPolicy(members::PolicyCommand),
    /// Manage identity providers, whose tokens (JWT) are accepted instead of API keys.
    #[command(subcommand)]
    IdentityProvider(providers::ProviderCommand),
    /// Manage identities: which subject of an identity provider is which user.
    #[command(subcommand)]
    Identity(providers::IdentityCommand),
    /// Show and change balances, and list the entries of the ledger.
    #[command(subcommand)]
    Credit(credits::CreditCommand),
    /// Show what tasks cost, grouped by organisation, day, team, user, key or task type.
    Usage(credits::UsageArgs),
    /// Show the statement of an organisation for a month, line by line.
    Statement(credits::StatementArgs),
    /// Manage price books.
    #[command(subcommand)]
    Price(prices::PriceCommand),
    /// Manage price factors: what an organisation pays of the list price for a time.
    #[command(subcommand)]
    PriceFactor(prices::FactorCommand),
    /// List and resolve tasks in doubt, whose outcome is unknown.
    #[command(subcommand)]
    Holds(holds::HoldsCommand),
    /// List what the platform lost or may have lost.
    Losses(holds::DaysArgs),
    /// Compare what was booked with what the vendor reported, by account and by task.
    Drift(holds::DaysArgs),
    /// Manage operator tokens.
    #[command(subcommand)]
    OperatorToken(operators::TokenCommand),
    /// List who changed what, newest first.
    AuditLog(operators::LogArgs),
    /// Show what needs a person: the newest audit, doubts, stopped organisations, accounts that the vendor refuses.
    Health,
    /// List the gateways of the last day with their leases.
    Gateways,
    /// Show the role, organisation and user of the given credential.
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

fn quota(text: &str) -> Result<Limit, String> {
    match text {
        "default" => Ok(Limit(None)),
        _ => match text.parse() {
            Ok(number @ 0..) => Ok(Limit(Some(number))),
            _ => Err("give a number from 0, or 'default'".into()),
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
        return Err(CliError::Usage("no credential given: use --token, or set TOLLGATE_ADMIN_TOKEN".into()));
    };
    // A variable without a value is one that nobody has set: that is how a container engine passes it on.
    let url = if args.url.trim().is_empty() { DEFAULT_URL } else { &args.url };
    let ca_file = args.ca_file.as_deref().filter(|file| !file.as_os_str().is_empty());
    let session = Session::new(url, ca_file, Secret::new(token.trim()), args.json)?;
    block_on(async move { by_api(&session, args.command).await })
}

async fn by_api(session: &Session, command: AdminCommand) -> Result<(), CliError> {
    match command {
        AdminCommand::Org(command) => orgs::org(session, command).await,
        AdminCommand::Team(command) => users::team(session, command).await,
        AdminCommand::User(command) => users::user(session, command).await,
        AdminCommand::Budget(command) => budgets::run(session, command).await,
        AdminCommand::Holds(command) => holds::run(session, command).await,
        AdminCommand::Losses(args) => holds::losses(session, args).await,
        AdminCommand::Drift(args) => holds::drift(session, args).await,
        AdminCommand::OperatorToken(command) => operators::token(session, command).await,
        AdminCommand::AuditLog(args) => operators::log(session, args).await,
        AdminCommand::Health => operators::health(session).await,
        AdminCommand::Gateways => operators::gateways(session).await,
        AdminCommand::Me => operators::me(session).await,
        AdminCommand::BudgetRequest(command) => members::request(session, command).await,
        AdminCommand::Key(command) => keys::key(session, command).await,
        AdminCommand::KeyPolicy(command) => members::policy(session, command).await,
        AdminCommand::IdentityProvider(command) => providers::provider(session, command).await,
        AdminCommand::Identity(command) => providers::identity(session, command).await,
        AdminCommand::Price(command) => prices::price(session, command).await,
        AdminCommand::PriceFactor(command) => prices::factor(session, command).await,
        AdminCommand::Credit(command) => credits::credit(session, command).await,
        AdminCommand::Usage(args) => credits::usage(session, args).await,
        AdminCommand::Statement(args) => credits::statement(session, args).await,
    }
}

/// The text in `field` of a new object, mostly its id.
fn named(made: &Value, field: &str) -> String {
    made[field].as_str().unwrap_or_default().to_owned()
}
