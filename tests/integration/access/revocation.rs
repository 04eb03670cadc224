//! A revoked key is refused, whatever was under way, lost or away at that moment.

use std::time::{Duration, Instant};

use reqwest::Method;
use sqlx::{Connection, Executor, PgConnection};
use tollgate::store::{KeySpec, NewUser, Role};

use crate::support::database::until;
use crate::support::gateway::{Answer, Caller, ENDLESS, MASTER_KEY, TestGateway, body};
use crate::support::network::{Network, Weather};
use crate::support::process::{Process, Scratch};

async fn status_of(gateway: &TestGateway, caller: &Caller) -> u16 {
    Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(&caller.text)).await.status
}

/// The first look-up of a key stops half way: it has seen the row as it was, and hangs.
const GATE: &str = "alter table team rename to real_team; create sequence look_ups; \
    create function gate() returns boolean language plpgsql volatile as $$ begin \
      if nextval('look_ups') = 1 then perform pg_advisory_lock_shared(42); perform pg_advisory_unlock_shared(42); end if; \
      return true; end $$; \
    create view team as select * from real_team where gate(); \
    grant usage on sequence look_ups to public; grant select, insert, update on team to public";

#[tokio::test]
async fn a_look_up_that_was_under_way_does_not_revive_a_revoked_key() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let witness = gateway.another_user("a witness", "member").await;
    let team = Some(db.create_team(witness.org, "film").await.unwrap());
    let new = NewUser { name: "of a team".into(), role: Role::Member, team };
    let user = db.add_user(witness.org, &new).await.unwrap();
    let spec = KeySpec { name: "doomed".into(), env: "test".into(), ..KeySpec::default() };
    let (key, text) = db.create_key(witness.org, user, &spec).await.unwrap();
    let doomed = Caller { org: witness.org, user, key, text: text.expose().to_owned() };
    assert_eq!(status_of(&gateway, &witness).await, 200);
    let mut keeper = PgConnection::connect(gateway.db.url()).await.unwrap();
    keeper.execute("select pg_advisory_lock(42)").await.unwrap();
    sqlx::raw_sql(GATE).execute(gateway.db.pool()).await.unwrap();

    let looking = tokio::spawn({
        let call = gateway.request(Method::GET, "/api/credits").bearer_auth(&doomed.text);
        async move { Answer::to(call).await.status }
    });
    until("the look-up hangs", async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted \
                       and database = (select oid from pg_database where datname = current_database())";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(gateway.db.pool()).await.unwrap() == 1
    })
    .await;
    // Both by one statement, and nothing before was a change: the gateway is told once, and never again.
    sqlx::query("update api_key set revoked_at = now() where key_id in ($1, $2)")
        .bind(doomed.key.as_uuid())
        .bind(witness.key.as_uuid())
        .execute(gateway.db.pool())
        .await
        .unwrap();
    until("the gateway has heard of it", async || status_of(&gateway, &witness).await == 401).await;
    keeper.execute("select pg_advisory_unlock(42)").await.unwrap();
    // It began before the revocation; what it puts into memory counts for nobody.
    assert_eq!(looking.await.unwrap(), 200);
    for _ in 0..3 {
        assert_eq!(status_of(&gateway, &doomed).await, 401);
    }
}

#[tokio::test]
async fn lost_notifications_delay_a_revocation_and_do_not_prevent_it() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let keys = [gateway.another_key(KeySpec::default()).await, gateway.another_key(KeySpec::default()).await];
    for key in &keys {
        assert_eq!(status_of(&gateway, key).await, 200);
    }
    let refused = async |key: &Caller| {
        db.revoke_key(key.key).await.unwrap();
        until("it is refused", async || status_of(&gateway, key).await == 401).await;
    };
    // Who listens dies, and with it what it had not heard yet.
    let listeners = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                     where datname = current_database() and query ilike 'listen%'";
    let killed: i64 = sqlx::query_scalar(listeners).fetch_one(gateway.db.pool()).await.unwrap();
    assert!(killed >= 1, "nobody listened");
    refused(&keys[0]).await;
    // The counter moves, and nobody is told.
    let silent = "create or replace function bump_epoch(p_name text) returns void language sql as \
                  $$ update epoch set value = value + 1 where name = p_name $$";
    sqlx::raw_sql(silent).execute(gateway.db.pool()).await.unwrap();
    refused(&keys[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_its_database_serves_status_from_memory_and_not_for_ever() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let task = gateway.task("under way").await;
    let network = Network::to(gateway.db.url()).await;
    let scratch = Scratch::new();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [database]\nurl = \"{}\"\nacquire_timeout_ms = 300\n[upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n\
         [auth]\nstale_max_ms = 15000\n[status]\nmin_interval_ms = 3600000\n",
        network.url(),
        gateway.simulator()
    );
    let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    let base = process.event("serving").await["data"].as_str().unwrap().to_owned();
    let status = async || {
        let url = format!("{base}/api/status?task_id={task}");
        Answer::to(gateway.client.get(url).bearer_auth(&gateway.caller.text)).await
    };
    status().await.expect(200);
    network.set(Weather::CUT);
    let cut = Instant::now();
    let create = gateway.client.post(format!("{base}/api/generate")).bearer_auth(&gateway.caller.text);
    Answer::to(create.body(body("x").to_string())).await.refused(503, "UNAVAILABLE");
    // When the last call began that was still served.
    let mut served = Duration::ZERO;
    until("it trusts its memory no more", async || {
        let began = cut.elapsed();
        let answer = status().await;
        if answer.status == 200 {
            served = began;
        } else {
            answer.refused(503, "UNAVAILABLE");
            assert!(!answer.header("retry-after").is_empty());
        }
        answer.status != 200
    })
    .await;
    // Longer than keys are trusted without asking, and not longer than stale_max since the last look: that one may just
    // have got through.
    assert!(served > Duration::from_secs(5) && served < Duration::from_secs(20), "{served:?}");
    network.set(Weather::CLEAR);
    until("it asks again", async || status().await.status == 200).await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
}
