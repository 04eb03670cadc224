//! The vendor's books against ours, when all is done.

use std::collections::HashMap;
use std::net::SocketAddr;

use reqwest::Client;
use serde_json::Value;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use tollgate::ids::HoldId;
use uuid::Uuid;

use crate::support::http;

/// A row of the table of holds.
#[derive(Debug, Clone)]
pub struct Hold {
    hold_id: Uuid,
    pub state: String,
    pub amount: i64,
    pub list_price: i64,
    pub price_book: i32,
    pub task_type: String,
    /// The account it is on, as the configuration calls it.
    pub account: String,
    pub reason: Option<String>,
    pub upstream_task: Option<String>,
    pub raw_consumed: Option<i64>,
    pub charged: Option<i64>,
    /// What became of evidence that came after its end.
    pub late: Option<String>,
    /// What the upstream took and no tenant pays, by its own words.
    pub loss: i64,
    /// What it may have taken.
    pub possible_loss: i64,
}

impl FromRow<'_, PgRow> for Hold {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            hold_id: row.try_get("hold_id")?,
            state: row.try_get("state")?,
            amount: row.try_get("amount")?,
            list_price: row.try_get("list_price")?,
            price_book: row.try_get("price_book")?,
            task_type: row.try_get("task_type")?,
            account: row.try_get("account")?,
            reason: row.try_get("reason")?,
            upstream_task: row.try_get("upstream_task")?,
            raw_consumed: row.try_get("raw_consumed")?,
            charged: row.try_get("charged")?,
            late: row.try_get("late")?,
            loss: row.try_get("loss")?,
            possible_loss: row.try_get("possible_loss")?,
        })
    }
}

impl Hold {
    pub async fn all(pool: &PgPool) -> Vec<Self> {
        sqlx::query_as(
            "select h.*, l.loss, l.possible_loss from task h cross join lateral ( \
             select coalesce(sum(amount) filter (where not possible), 0)::bigint as loss, \
             coalesce(sum(amount) filter (where possible), 0)::bigint as possible_loss \
             from platform_loss where org_id = h.org_id and hold_id = h.hold_id) l order by h.hold_id",
        )
        .fetch_all(pool)
        .await
        .unwrap()
    }

    /// Our reference.
    pub fn reference(&self) -> String {
        HoldId::from_uuid(self.hold_id).to_string()
    }

    fn is_open(&self) -> bool {
        matches!(self.state.as_str(), "HELD" | "RUNNING" | "IN_DOUBT")
    }

    /// Whether it may be a task of the vendor that nobody told us of.
    fn may_be_unknown(&self) -> bool {
        self.upstream_task.is_none()
            && (self.is_open() || self.state == "WRITTEN_OFF" || self.possible_loss > 0)
    }
}

/// How a gateway and its vendor ended.
pub struct Closing {
    /// Whether the gateway finished everything in flight.
    pub finished: bool,
    /// The vendor's accounts.
    books: Vec<Value>,
    /// Our name of an account to the vendor's: its key.
    keys: HashMap<String, String>,
    holds: Vec<Hold>,
}

/// All accounts in the simulated vendor's books.
async fn accounts(client: &Client, simulator: SocketAddr) -> Vec<Value> {
    let url = format!("http://{simulator}/_sim/books");
    let books: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    books["accounts"].as_array().unwrap().clone()
}

/// One account in the simulated vendor's books.
pub async fn account(client: &Client, simulator: SocketAddr, key: &str) -> Value {
    accounts(client, simulator).await.into_iter().find(|account| account["account"] == key).unwrap()
}

/// Reads both books; nothing may change any more.
pub async fn close(
    finished: bool,
    simulator: SocketAddr,
    database_url: &str,
    keys: HashMap<String, String>,
) -> Closing {
    let books = accounts(&http::client(), simulator).await;
    let pool = PgPool::connect(database_url).await.unwrap();
    let holds = Hold::all(&pool).await;
    let held = sqlx::query("select count(*) from task where state = 'HELD'").fetch_one(&pool).await.unwrap();
    assert_eq!(held.get::<i64, _>(0), 0, "a gateway that stopped left holds it no longer works on");
    pool.close().await;
    Closing { finished, books, keys, holds }
}

impl Closing {
    /// Every task of the vendor is one of ours, on the account we have it on, or may be one whose outcome we do not know; what it consumed is charged,
    /// still held, or the platform's loss.
    pub fn compare(&self, expected_difference: i64) {
        let known: HashMap<&str, &Hold> =
            self.holds.iter().filter_map(|hold| Some((hold.upstream_task.as_deref()?, hold))).collect();
        let mut candidates: HashMap<&str, usize> = HashMap::new();
        for hold in self.holds.iter().filter(|hold| hold.may_be_unknown()) {
            *candidates.entry(&hold.task_type).or_default() += 1;
        }
        let mut difference = 0;
        let mut seen = 0;
        let mut wrong = Vec::new();
        let tasks = |account: &Value| account["tasks"].as_array().unwrap().clone();
        let tasks = self.books.iter().flat_map(|account| {
            tasks(account).into_iter().map(|task| (account["account"].as_str().unwrap(), task))
        });
        for (account, task) in tasks {
            let consumed = task["consumed_credits"].as_i64().unwrap();
            match known.get(task["task_id"].as_str().unwrap()) {
                None => match candidates.get_mut(task["type"].as_str().unwrap()) {
                    Some(left @ 1..) => *left -= 1,
                    _ => wrong.push(format!("nobody here knows {task}")),
                },
                Some(hold) => {
                    seen += 1;
                    if self.keys.get(&hold.account).is_none_or(|key| key != account) {
                        wrong.push(format!("{task} is on {account}: {hold:?}"));
                    }
                    let ours = match (hold.state.as_str(), hold.late.as_deref()) {
                        ("SETTLED", _) | (_, Some("charged")) => hold.raw_consumed.unwrap(),
                        ("RELEASED", None) | (_, Some("lost")) => hold.loss,
                        _ => consumed,
                    };
                    if ours != consumed {
                        difference += consumed - ours;
                        if expected_difference == 0 {
                            wrong.push(format!("{task} is {hold:?}"));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "the vendor's books differ: {wrong:#?}");
        assert_eq!(difference, expected_difference, "by so much the vendor's books differ from ours");
        assert_eq!(seen, known.len(), "the vendor does not know all of our tasks");
    }
}
