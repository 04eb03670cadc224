//! Organisations that are busy, unlucky or broken: what is the matter with them stays theirs.

use std::sync::atomic::Ordering;

use reqwest::RequestBuilder;
use serde_json::json;

use super::street::{Street, Target};
use crate::support::database::alter;
use crate::support::faults::scaled;
use crate::support::http;

/// Sends this over and over on so many connections, and reads the answers.
fn ask(
    target: &Target,
    connections: usize,
    what: impl Fn(&reqwest::Client, usize) -> RequestBuilder + Clone + Send + Sync + 'static,
) {
    for connection in 0..connections {
        let (each, what) = (target.clone(), what.clone());
        target.tasks.spawn(async move {
            let client = http::client();
            let asking = async {
                loop {
                    let number = each.sent.fetch_add(1, Ordering::Relaxed);
                    if let Ok(answer) = what(&client, number * connections + connection).send().await {
                        let _ = answer.bytes().await;
                    }
                }
            };
            tokio::select! {
                () = each.over.cancelled() => {}
                () = asking => {}
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_who_makes_users_and_reads_figures_all_the_time() {
    async fn attack(target: Target) {
        let (base, org, key) = (target.operations, target.org, target.admin_key.clone());
        ask(&target, 40, move |client, number| {
            let of_org = format!("http://{base}/admin/v1/orgs/{org}");
            let call = match number % 3 {
                0 => client.post(format!("{of_org}/users")).json(&json!({"name": format!("user {number}")})),
                1 => client.get(format!("{of_org}/usage?by=day")),
                _ => client.get(format!("{of_org}/audit-log?limit=200")),
            };
            call.bearer_auth(&key)
        });
        target.over.cancelled().await;
    }
    Street::new().await.bears("40 management calls at a time", 400, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_who_makes_and_deletes_budgets_over_a_long_history() {
    async fn attack(target: Target) {
        let (base, org, key) = (target.operations, target.org, target.admin_key.clone());
        let client = http::client();
        let mut made = Vec::new();
        while !target.over.is_cancelled() {
            target.sent.fetch_add(1, Ordering::Relaxed);
            let body = json!({"level": "key", "period": "total", "credits": null});
            let call = client.post(format!("http://{base}/admin/v1/orgs/{org}/budgets")).json(&body);
            let Ok(answer) = call.bearer_auth(&key).send().await else { continue };
            made.push(answer.status().as_u16());
            let Ok(budget) = answer.json::<serde_json::Value>().await else { continue };
            let Some(id) = budget["budget_id"].as_str() else { continue };
            let call = client.delete(format!("http://{base}/admin/v1/budgets/{id}")).bearer_auth(&key);
            let _ = call.send().await;
        }
        assert!(target.real.is_none() || made.contains(&201), "{made:?}");
    }
    let street = Street::new().await.with_history(scaled(100_000, 1_000_000)).await;
    street.bears("budgets made and deleted over a long history", 3, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_who_lists_all_the_time() {
    async fn attack(target: Target) {
        let (base, key) = (target.data, target.key.clone());
        ask(&target, 40, move |client, _| {
            client.get(format!("http://{base}/api/tasks?status=RELEASED&limit=100")).bearer_auth(&key)
        });
        target.over.cancelled().await;
    }
    Street::new().await.bears("40 lists at a time", 400, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_the_vendor_fails() {
    async fn attack(target: Target) {
        if let Some(real) = target.real.clone() {
            real.create(&target, 8);
        }
        target.over.cancelled().await;
    }
    let street =
        Street::new().await.vendor_does("create", json!({"kind": "http_error", "status": 500})).await;
    street.bears("creates that fail", 50, attack).await;
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

/// Holds the attacker's balance row.
async fn hold_its_row(target: Target) {
    if let Some(real) = target.real.clone() {
        let mut holder = real.database.begin().await.unwrap();
        let locked = sqlx::query("select from org_balance where org_id = $1 for update");
        locked.bind(target.org.as_uuid()).execute(&mut *holder).await.unwrap();
        real.create(&target, 12);
        target.over.cancelled().await;
        holder.rollback().await.unwrap();
    }
    target.over.cancelled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_row_that_somebody_holds() {
    Street::new().await.bears("a locked balance row", 12, hold_its_row).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_row_that_somebody_holds_with_three_gateways() {
    Street::of(3).await.bears("a locked balance row, three gateways", 12, hold_its_row).await;
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
