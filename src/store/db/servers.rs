//! The database's servers: which of them is the primary, and how the pools follow when that changes.
//!
//! sqlx knows only one host, so the list of servers is kept here. One task looks at all servers, every second and
//! whenever a caller met an error. The primary is the server that takes writes on the highest timeline: a promotion
//! starts a new timeline, which distinguishes the new primary from a former one that comes back. The highest timeline
//! ever seen is remembered. A server on a lower one is refused even while no other can be reached, because the holds
//! made since the promotion are missing there.
//!
//! With only one server there is no choice: each new connection is only asked whether the server takes writes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{role, session};
use crate::clock::Clock;
use crate::config::database_url_problem;
use crate::https;
use crate::secret::Secret;
use crate::store::db::error::{NoPrimary, StoreError};

/// A server that has not answered within this time, connecting included, counts as unreachable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time between two looks at all servers.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two looks, however many errors ask for one.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// The number of changes of the primary. A connection made in an earlier turn belongs to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct PrimaryTerm(u64);

struct DatabaseServer {
    options: PgConnectOptions,
    name: String,
    /// The database's name and address, for people; without user and password.
    place: String,
}

#[derive(Clone)]
struct ServersState {
    /// The index of the primary in the list.
    primary: Option<usize>,
    turn: PrimaryTerm,
    /// When the present turn began.
    since: Instant,
    /// The highest timeline that was seen.
    timeline: u32,
    looked: bool,
    /// Why there is no primary, if that is known.
    complaint: Option<Arc<str>>,
}

pub(in crate::store) struct Servers {
    list: Vec<DatabaseServer>,
    state: watch::Sender<ServersState>,
    wanted: Notify,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the names are shown, because the options contain passwords.
        f.debug_list().entries(self.list.iter().map(|server| &server.name)).finish()
    }
}

impl Servers {
    pub(in crate::store) fn new(urls: &[Secret]) -> Result<Self, StoreError> {
        let list: Vec<DatabaseServer> = urls.iter().map(server).collect::<Result<_, _>>()?;
        if list.is_empty() {
            return Err(StoreError::Invalid("no database URL is given".into()));
        }
        let state = ServersState {
            primary: (list.len() == 1).then_some(0),
            turn: PrimaryTerm(0),
            since: Clock.now(),
            timeline: 0,
            looked: false,
            complaint: None,
        };
        Ok(Self { list, state: watch::Sender::new(state), wanted: Notify::new() })
    }

    /// The name of the database and its addresses, for people; without user and password.
    pub(super) fn place(&self) -> String {
        let places: Vec<&str> = self.list.iter().map(|server| server.place.as_str()).collect();
        places.join(" or ")
    }

    /// Whether there is more than one server.
    pub(in crate::store) fn several(&self) -> bool {
        self.list.len() > 1
    }

    /// The options for connecting to the primary, or, while none is known, to the first server of the list.
    pub(in crate::store) fn options(&self) -> (PgConnectOptions, PrimaryTerm) {
        let state = self.state.borrow();
        (self.list[state.primary.unwrap_or(0)].options.clone(), state.turn)
    }

    pub(in crate::store) fn turn(&self) -> PrimaryTerm {
        self.state.borrow().turn
    }

    /// How often the primary has changed; finding the first one does not count.
    pub(in crate::store) fn changes(&self) -> u64 {
        self.state.borrow().turn.0.saturating_sub(1)
    }

    /// Whether a connection of this age was made for a former primary.
    pub(in crate::store) fn outdates(&self, age: Duration) -> bool {
        let state = self.state.borrow();
        state.turn != PrimaryTerm(0) && age >= Clock.since(state.since)
    }

    /// Returns when another server is the primary than in `turn`.
    pub(in crate::store) async fn changed_from(&self, turn: PrimaryTerm) {
        // An error means that the sender is gone, but the sender is a field of `self`.
        let _ = self.state.subscribe().wait_for(|state| state.turn != turn).await;
    }

    /// Asks for a look at once, because a caller met an error and another server may be the primary now.
    pub(in crate::store) fn look_again(&self) {
        self.wanted.notify_one();
    }

    /// Why there is no primary, if that is known.
    pub(in crate::store) fn complaint(&self) -> Option<NoPrimary> {
        self.state.borrow().complaint.clone().map(NoPrimary)
    }

    /// Waits for the first look at the servers, if there are several.
    pub(in crate::store) async fn first_look(&self) -> Result<(), NoPrimary> {
        if self.several() {
            let mut state = self.state.subscribe();
            let looked = state.wait_for(|state| state.looked);
            // The look has time-outs of its own; this one is for a runtime that is stuck.
            drop(tokio::time::timeout(PROBE_TIMEOUT * 2, looked).await);
            if self.state.borrow().primary.is_none() {
                return Err(self.complaint().unwrap_or_else(|| NoPrimary("no server was looked at".into())));
            }
        }
        Ok(())
    }

    /// Refuses a new connection to a server that takes no writes, or that was replaced by another primary.
    pub(in crate::store) async fn admit(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let known = self.state.borrow().timeline;
        let refused = match examine(connection, self.several()).await? {
            Examined::Primary(timeline) if timeline >= known => None,
            Examined::Primary(timeline) => Some(outdated(timeline, known)),
            Examined::Unfit(why) => Some(why),
        };
        if self.several() {
            let Some(why) = refused else { return Ok(()) };
            self.look_again();
            return Err(NoPrimary(why.into()).into());
        }
        let complaint: Option<Arc<str>> = refused.map(|why| format!("{} {why}", self.list[0].name).into());
        self.state.send_if_modified(|state| {
            let changed = state.complaint != complaint;
            state.complaint.clone_from(&complaint);
            changed
        });
        complaint.map_or(Ok(()), |why| Err(NoPrimary(why).into()))
    }

    /// Admits a new connection of a gateway, and makes it one of the role that gateways run as.
    pub(in crate::store) async fn receive(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.admit(connection).await?;
        role::assume(connection).await
    }

    /// Looks at all servers until `stop`, and points the pool at the primary.
    pub(in crate::store) async fn watch(self: Arc<Self>, pool: PgPool, stop: CancellationToken) {
        // The connection to each server stays open between two looks.
        let mut connections: Vec<Option<PgConnection>> = self.list.iter().map(|_| None).collect();
        loop {
            let looks = self.list.iter().zip(&mut connections).map(|(server, kept)| probe(server, kept));
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = join_all(looks) => found,
            };
            if let Some(primary) = self.decide(&found) {
                pool.set_connect_options(self.list[primary].options.clone());
            }
            let pause = async {
                tokio::time::sleep(LEAST_INTERVAL).await;
                let wanted = self.wanted.notified();
                drop(tokio::time::timeout(LOOK_INTERVAL - LEAST_INTERVAL, wanted).await);
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
            }
        }
    }

    /// Stores what a look has found; returns the index of the primary if it has changed.
    fn decide(&self, found: &[Examined]) -> Option<usize> {
        let before = self.state.borrow().clone();
        let chosen = choose(found, before.primary, before.timeline);
        let mut state = ServersState { looked: true, complaint: None, ..before.clone() };
        let Some((place, timeline)) = chosen else {
            let all = self.list.iter().zip(found).map(|(server, found)| match found {
                Examined::Primary(timeline) => {
                    format!("{} {}", server.name, outdated(*timeline, before.timeline))
                }
                Examined::Unfit(why) => format!("{} {why}", server.name),
            });
            let why: Arc<str> = all.collect::<Vec<_>>().join("; ").into();
            if before.complaint.as_ref() != Some(&why) {
                tracing::error!(%why, "no database server takes writes");
            }
            state.complaint = Some(why);
            self.state.send_replace(state);
            return None;
        };
        state.timeline = timeline;
        let changed = before.primary != Some(place);
        if changed {
            let name = &self.list[place].name;
            tracing::info!(server = %name, timeline, "this database server is the primary");
            state.primary = Some(place);
            state.turn = PrimaryTerm(before.turn.0 + 1);
            state.since = Clock.now();
        } else if before.complaint.is_some() {
            tracing::info!("the primary database server takes writes again");
        }
        self.state.send_replace(state);
        changed.then_some(place)
    }
}

fn server(url: &Secret) -> Result<DatabaseServer, StoreError> {
    let text = url.expose().trim();
    if let Some(problem) = database_url_problem(text) {
        return Err(StoreError::Invalid(format!("the database URL: {problem}")));
    }
    let mut options = PgConnectOptions::from_str(text).map_err(|_| {
        StoreError::Invalid("the database URL is not of the form postgres://user@host/database".into())
    })?;
    // The driver would look up a literal with its brackets as a name.
    let literal =
        options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
    if let Some(address) = literal {
        options = options.host(&address);
    }
    let options = session::settings(options.application_name("tollgate"));
    let name = match options.get_socket() {
        Some(directory) => format!("{}:{}", directory.display(), options.get_port()),
        None if options.get_host().contains(':') => {
            format!("[{}]:{}", options.get_host(), options.get_port())
        }
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or(options.get_username());
    let place = match options.get_socket() {
        Some(directory) => {
            format!("{database} at the socket in {}, port {}", directory.display(), options.get_port())
        }
        None => format!("{database} at {name}"),
    };
    Ok(DatabaseServer { options, name, place })
}

/// What a look has found about one server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Examined {
    /// The server takes writes on this timeline (0 if the timeline was not asked for).
    Primary(u32),
    /// The server cannot be used; the text goes on after its name.
    Unfit(String),
}

fn outdated(timeline: u32, known: u32) -> String {
    format!("is an old primary (timeline {timeline}; another server has been promoted to {known}): fence it")
}

/// The index and timeline of the server to use: the highest timeline; among equal ones the present primary, else the
/// first server.
fn choose(found: &[Examined], present: Option<usize>, known: u32) -> Option<(usize, u32)> {
    let usable = found.iter().enumerate().filter_map(|(place, found)| match found {
        Examined::Primary(timeline) if *timeline >= known => Some((place, *timeline)),
        _ => None,
    });
    usable.max_by_key(|(place, timeline)| (*timeline, present == Some(*place), std::cmp::Reverse(*place)))
}

async fn probe(server: &DatabaseServer, kept: &mut Option<PgConnection>) -> Examined {
    // The connection is taken out of its slot, so that it is not used again if its answer does not come in time.
    let connection = kept.take();
    let look = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => server.options.clone().application_name("tollgate-look").connect().await?,
        };
        let found = examine(&mut connection, true).await?;
        Ok::<_, sqlx::Error>((found, connection))
    };
    match tokio::time::timeout(PROBE_TIMEOUT, look).await {
        Ok(Ok((found, connection))) => {
            *kept = Some(connection);
            found
        }
        Ok(Err(error)) => Examined::Unfit(format!("cannot be asked ({})", https::reasons(&error))),
        Err(_) => Examined::Unfit(format!("has not answered within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// Asks the server whether it takes writes, and, only if there are several servers, on which timeline: not every
/// database that speaks PostgreSQL's protocol has timelines.
async fn examine(connection: &mut PgConnection, ask_timeline: bool) -> Result<Examined, sqlx::Error> {
    let timeline = if ask_timeline { "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)" } else { "''" };
    let question = format!(
        "select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
         case when pg_is_in_recovery() then '' else {timeline} end"
    );
    let (standby, read_only, timeline): (bool, bool, String) =
        sqlx::query_as(sqlx::AssertSqlSafe(question)).persistent(false).fetch_one(connection).await?;
    Ok(match (standby, read_only) {
        (true, _) => Examined::Unfit("is a standby: it takes no writes".into()),
        (false, true) => Examined::Unfit("is in read-only mode (default_transaction_read_only)".into()),
        (false, false) => Examined::Primary(u32::from_str_radix(&timeline, 16).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfit() -> Examined {
        Examined::Unfit("away".into())
    }

    #[test]
    fn the_highest_timeline_wins_and_no_lower_one_ever_follows() {
        let found = [Examined::Primary(1), Examined::Primary(2), unfit()];
        assert_eq!(choose(&found, Some(0), 1), Some((1, 2)));
        assert_eq!(
            choose(&[Examined::Primary(1), unfit()], Some(1), 2),
            None,
            "an old primary is back alone"
        );
        assert_eq!(choose(&[Examined::Primary(3), unfit()], Some(1), 2), Some((0, 3)));
    }

    #[test]
    fn among_equals_the_present_one_stays() {
        let found = [Examined::Primary(1), Examined::Primary(1)];
        assert_eq!(choose(&found, None, 0), Some((0, 1)));
        assert_eq!(choose(&found, Some(1), 1), Some((1, 1)));
        assert_eq!(choose(&[unfit(), unfit()], Some(1), 1), None);
    }

    #[test]
    fn no_password_shows() {
        let servers = Servers::new(&[Secret::new("postgres://me:hunter2@db.example:5433/x")]).unwrap();
        assert_eq!(format!("{servers:?}"), "[\"db.example:5433\"]");
        assert_eq!(servers.place(), "x at db.example:5433");
        let urls =
            ["postgres://me:hunter2@a:1/x", "postgres://me@localhost:2/y?host=/run/pg&password=hunter2"];
        let servers = Servers::new(&urls.map(Secret::new)).unwrap();
        assert_eq!(servers.place(), "x at a:1 or y at the socket in /run/pg, port 2");
        let servers = Servers::new(&[Secret::new("postgres://me@[::1]:3/x")]).unwrap();
        assert_eq!(servers.place(), "x at [::1]:3");
        assert_eq!(servers.options().0.get_host(), "::1", "an address, and no name to look up");
    }
}
