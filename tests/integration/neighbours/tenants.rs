//! Organisations that are busy, unlucky or broken: what is the matter with them stays theirs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::json;
use uuid::Uuid;

use super::street::{ATTACKER, Street, Target};
use crate::support::database::alter;
use crate::support::faults::load::Reply;
use crate::support::faults::scaled;
use crate::support::http;

/// How often each place was answered with each status.
type Answers = Arc<Mutex<BTreeMap<(String, u16), usize>>>;

/// Sends this over and over on so many connections, and reads the answers, until the attack is over. Each place must have been served.
async fn ask(
    target: Target,
    connections: usize,
    what: impl Fn(&reqwest::Client, usize) -> RequestBuilder + Clone + Send + Sync + 'static,
) {
    let answers = Answers::default();
    for connection in 0..connections {
        let (each, what, answers) = (target.clone(), what.clone(), answers.clone());
        target.run(async move {
            // What is not served is no page of its own.
            let redirects = reqwest::redirect::Policy::none();
            let client = http::builder().redirect(redirects).build().unwrap();
            for round in 0.. {
                each.sent.fetch_add(1, Ordering::Relaxed);
                if let Ok(answer) = what(&client, round + connection).send().await {
                    let place = (answer.url().path().to_owned(), answer.status().as_u16());
                    *answers.lock().unwrap().entry(place).or_default() += 1;
                    let _ = answer.bytes().await;
                }
            }
        });
    }
    target.over.cancelled().await;
    let answers = answers.lock().unwrap();
    let served =
        |place: &String| answers.iter().any(|((of, status), _)| of == place && [200, 201].contains(status));
    println!("the attacker was answered {answers:?}");
    assert!(target.real.is_none() || answers.keys().all(|(place, _)| served(place)), "{answers:?}");
}

/// An admin who makes users, and reads figures, keys and the audit log.
async fn manage(target: Target) {
    let (base, org, key) = (target.operations, target.org, target.admin_key.clone());
    ask(target, 40, move |client, number| {
        let of_org = format!("http://{base}/admin/v1/orgs/{org}");
        let call = match number % 6 {
            0 => client
                .post(format!("{of_org}/users"))
                .json(&json!({"name": format!("user {}", Uuid::now_v7())})),
            1 => client.get(format!("{of_org}/usage?group_by=day")),
            2 => client.get(format!("{of_org}/usage?group_by=key")),
            3 => client.get(format!("{of_org}/keys?limit=200")),
            4 => client.get(format!("{of_org}/entries?limit=200")),
            _ => client.get(format!("{of_org}/audit-log?limit=200")),
        };
        call.bearer_auth(&key)
    })
    .await;
}

/// An admin who looks for tasks that there are none of.
async fn list(target: Target) {
    let (base, key) = (target.data, target.admin_key.clone());
    ask(target, 40, move |client, _| {
        client.get(format!("http://{base}/api/tasks?status=RELEASED&limit=100")).bearer_auth(&key)
    })
    .await;
}

/// An admin who turns over pages of the console.
async fn browse(target: Target) {
    let (base, cookie) = (target.data, target.cookie.clone());
    ask(target, 40, move |client, number| {
        const PAGES: [&str; 5] = ["usage", "usage?by=key", "clips", "clips?status=RELEASED", "statement"];
        let page = client.get(format!("http://{base}/console/{}", PAGES[number % PAGES.len()]));
        page.header("cookie", &cookie).header("sec-fetch-site", "same-origin")
    })
    .await;
}

/// An admin, and an operator for the platform, who make and delete budgets.
async fn budget(target: Target) {
    let client = http::client();
    let (base, mut made) = (target.operations, Vec::new());
    let of_org = (format!("orgs/{}/budgets", target.org), target.admin_key.clone(), "total");
    let of_all = ("budgets".to_owned(), target.operator.clone(), "monthly");
    for (place, key, period) in [of_org, of_all].iter().cycle() {
        if target.over.is_cancelled() {
            break;
        }
        target.sent.fetch_add(1, Ordering::Relaxed);
        let body = json!({"level": "key", "period": period, "credits": null});
        let call = client.post(format!("http://{base}/admin/v1/{place}")).json(&body).bearer_auth(key);
        let answer = tokio::select! {
            () = target.over.cancelled() => break,
            answer = call.send() => answer,
        };
        let Ok(answer) = answer else { continue };
        made.push((*period, answer.status().as_u16()));
        let Ok(budget) = answer.json::<serde_json::Value>().await else { continue };
        let Some(id) = budget["budget_id"].as_str() else { continue };
        let call = client.delete(format!("http://{base}/admin/v1/budgets/{id}")).bearer_auth(key);
        let _ = call.send().await;
    }
    let all_made = ["total", "monthly"].iter().all(|period| made.contains(&(*period, 201)));
    assert!(target.real.is_none() || all_made, "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_of_an_organisation_with_a_long_history() {
    let street = Street::new().await.with_history(scaled(50_000, 1_000_000), scaled(100, 2_000)).await;
    street.stands("40 lists at a time", 400, list).await;
    street.stands("40 management calls at a time", 400, manage).await;
    street.stands("40 pages of the console at a time", 200, browse).await;
    street.bears("budgets made and deleted over a long history", 4, budget).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_fail_or_take_long() {
    async fn fail(target: Target) {
        if let Some(real) = target.real.clone() {
            real.create(&target, 8);
        }
        target.over.cancelled().await;
    }
    async fn take_long(target: Target) {
        if let Some(real) = target.real.clone() {
            real.create(&target, 40);
        }
        target.over.cancelled().await;
    }
    let street = Street::new().await;
    let street = street.vendor_does("create", json!({"kind": "http_error", "status": 500})).await;
    street.stands("creates that fail", 50, fail).await;
    let street = street.vendor_does("create", json!({"kind": "delay", "ms": 3_000})).await;
    street.bears("40 creates that take long", 40, take_long).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_the_vendor_bills_and_fails() {
    /// Ten tasks of 400 credits, and those that the workers have under way.
    const LIMIT: i64 = 4_000;
    const UNDER_WAY: i64 = 8 * 400;
    async fn attack(target: Target) {
        if let Some(real) = target.real.clone() {
            real.create(&target, 8);
        }
        target.over.cancelled().await;
    }
    let street = Street::with(1, &[("TOLLGATE_LIMITS__MAX_EXPOSURE_PER_DAY", "4000")]).await;
    let billed = json!({"kind": "http_error", "status": 500, "accept": true});
    let street = street.vendor_does("create", billed).await;
    street.stands("creates that are billed and fail", 200, attack).await;
    let losses = street.losses().await;
    assert!((1..=LIMIT + UNDER_WAY).contains(&losses), "{losses} credits lost");
    street.concludes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_whose_status_is_megabytes() {
    async fn attack(target: Target) {
        if let Some(real) = target.real.clone() {
            real.create(&target, 4);
        }
        target.over.cancelled().await;
    }
    let street = Street::new().await.vendor_does("status", json!({"kind": "huge", "bytes": 12 << 20})).await;
    street.bears("tasks with a status of 12 MiB", 20, attack).await;
}

/// So many tasks that have ended wait for the balance row.
const ENDED: usize = 45;

/// Holds the attacker's balance row. Tasks of it, which went on until then, end at the vendor meanwhile.
async fn hold_its_row(target: Target) {
    if let Some(real) = target.real.clone() {
        let customers = &real.customers;
        for first in (0..ENDED).step_by(9) {
            let some = first..ENDED.min(first + 9);
            let creating = some.map(|number| customers.create(ATTACKER, number % customers.gateways.len()));
            let replies = join_all(creating).await;
            assert!(replies.iter().all(|reply| matches!(reply, Reply::Accepted(_))), "{replies:?}");
        }
        let mut holder = real.database.begin().await.unwrap();
        let locked = sqlx::query("select from org_balance where org_id = $1 for update");
        locked.bind(target.org.as_uuid()).execute(&mut *holder).await.unwrap();
        real.vendor.behave().await;
        target.sent.fetch_add(ENDED, Ordering::Relaxed);
        real.create(&target, 12);
        target.over.cancelled().await;
        let waiting = "select count(*) from task where org_id = $1 and state = 'RUNNING'";
        let waiting = sqlx::query_scalar(waiting).bind(target.org.as_uuid());
        let waiting: i64 = waiting.fetch_one(&mut *holder).await.unwrap();
        assert_eq!(waiting, i64::try_from(ENDED).unwrap(), "all of them wait for the row");
        holder.rollback().await.unwrap();
    }
    target.over.cancelled().await;
}

async fn with_a_held_row(gateways: usize, name: &str) {
    let goes_on = json!({"kind": "status_word", "value": "IN_PROGRESS"});
    let street = Street::of(gateways).await.vendor_does("status", goes_on).await;
    street.bears(name, ENDED + 12, hold_its_row).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_row_that_somebody_holds() {
    with_a_held_row(1, "a locked balance row").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_row_that_somebody_holds_with_three_gateways() {
    with_a_held_row(3, "a locked balance row, three gateways").await;
}

/// The database refuses every step of the attacker's tasks, for a reason that nobody foresaw.
async fn break_its_rows(target: Target) {
    if let Some(real) = target.real.clone() {
        let script = format!(
            "create function break_down() returns trigger language plpgsql as \
             $$ begin raise exception 'unreadable block' using errcode = 'XX001'; end $$; \
             create trigger broken before update on hold for each row when (new.org_id = '{}') \
             execute function break_down()",
            target.org.as_uuid()
        );
        alter(&real.database, &script).await;
        real.create(&target, 12);
        target.over.cancelled().await;
        alter(&real.database, "drop trigger broken on hold; drop function break_down()").await;
    }
    target.over.cancelled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_database_refuses() {
    Street::new().await.bears("rows that the database refuses", 12, break_its_rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_database_refuses_with_three_gateways() {
    Street::of(3).await.bears("rows that the database refuses, three gateways", 12, break_its_rows).await;
}
