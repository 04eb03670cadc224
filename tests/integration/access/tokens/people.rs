//! The users that tokens make: who becomes one, once, and what later tokens change about it.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tollgate::ids::UserId;
use tollgate::store::{GivenRole, OperatorRole, Role, UserChange};

use super::{create, credits, get, user, users, with_provider};
use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::identity_provider::now;

#[tokio::test]
async fn no_more_users_sign_in_than_their_organisation_may_have() {
    let (gateway, provider) = with_provider(|spec| spec.create_users = true).await;
    sqlx::query(
        "insert into quota select org_id, 'users', count(*) + 1 from app_user where deleted_at is null group by org_id",
    )
    .execute(gateway.db.pool())
    .await
    .unwrap();
    let last = provider.token("the last", json!({}));
    credits(&gateway, &last).await.expect(200);
    let refused =
        credits(&gateway, &provider.token("one too many", json!({}))).await.refused(403, "FORBIDDEN");
    assert!(refused["message"].as_str().unwrap().contains("as many users as it may have"), "{refused}");
    credits(&gateway, &last).await.expect(200);
}

#[tokio::test]
async fn subjects_are_never_taken_for_one_another_nor_for_users_that_were_there() {
    let (gateway, provider) = with_provider(|_| {}).await;
    // One of that name is there already, and is an admin.
    gateway.another_user("ada", "admin").await;
    let token = provider.token("ada", json!({}));
    get(&gateway, &token, "/api/tasks").await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada (id)", "member", None)]);
    gateway.another_user("bob (id)", "admin").await;
    gateway.another_user("bob", "admin").await;
    credits(&gateway, &provider.token("bob", json!({}))).await.expect(200);
    let all = users(&gateway).await;
    assert!(all[1].0.starts_with("bob (usr_") && all[1].1 == "member", "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_comes_many_times_at_once_becomes_one_user() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let token = provider.token("ada", json!({}));
    let answers = join_all((0..40).map(|_| credits(&gateway, &token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(users(&gateway).await, [user("ada", "member", None)]);
}

#[tokio::test]
async fn who_may_not_be_made_is_refused_until_somebody_ties_it_to_a_user() {
    let (gateway, provider) = with_provider(|spec| spec.create_users = false).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let token = provider.token("ada", json!({}));
    credits(&gateway, &token).await.refused(403, "FORBIDDEN");
    assert_eq!(users(&gateway).await, []);
    let id = gateway.db.database().providers().await.unwrap()[0].provider_id;
    let path = format!("/admin/v1/orgs/{}/identities", gateway.caller.org);
    let link = json!({"provider_id": id, "subject": "ada", "user_id": gateway.caller.user});
    let linked = admin.post(&path, link.clone()).await.expect(201);
    admin.post(&path, link).await.expect(409);
    for unseen in ["ada\u{200b}", "\u{202e}ada", "a\u{a0}da"] {
        let link = json!({"provider_id": id, "subject": unseen, "user_id": gateway.caller.user});
        let refused = admin.post(&path, link).await.expect(400);
        assert!(refused["detail"].as_str().unwrap().contains("the invisible character U+"), "{refused}");
    }
    let stranger = gateway.another_org("another customer", 0).await;
    let foreign = json!({"provider_id": id, "subject": "eve", "user_id": stranger.user});
    admin.post(&path, foreign).await.expect(404);
    credits(&gateway, &token).await.expect(200);
    let listed = admin.get(&format!("{path}?user_id={}", gateway.caller.user)).await.expect(200);
    assert_eq!(listed["items"][0]["subject"], "ada");
    admin.delete(&format!("{path}/{}", linked["identity_id"].as_str().unwrap())).await.expect(204);
    until("it is unlinked", async || credits(&gateway, &token).await.status == 403).await;

    let link = |number: i32| json!({"provider_id": id, "subject": format!("ada {number}"), "user_id": gateway.caller.user});
    for number in 0..20 {
        admin.post(&path, link(number)).await.expect(201);
    }
    let refused = admin.post(&path, link(20)).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("has 20 subjects"), "{refused}");
}

#[tokio::test]
async fn role_and_team_follow_the_newest_token_and_no_older_one_takes_them_back() {
    let (gateway, provider) = with_provider(|spec| {
        spec.role_claim = Some("groups".into());
        spec.role_map = [("bosses".to_owned(), GivenRole::Admin)].into();
        spec.team_claim = Some("team".into());
    })
    .await;
    let db = gateway.db.database();
    db.create_team(gateway.caller.org, "film").await.unwrap();
    db.create_team(gateway.caller.org, "print").await.unwrap();
    let token = |age: i64, groups: Value, team: &str| {
        provider.token("ada", json!({"iat": now() - age, "groups": groups, "team": team}))
    };
    let first = token(300, json!(["staff"]), "film");
    credits(&gateway, &first).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "member", Some("film"))]);
    let second = token(200, json!(["staff", "bosses"]), "print");
    credits(&gateway, &second).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "admin", Some("print"))]);
    // A newer one takes the power back; those from before do not return it.
    credits(&gateway, &token(100, json!("staff"), "no such team")).await.expect(200);
    for old in [&first, &second, &second] {
        credits(&gateway, old).await.expect(200);
    }
    assert_eq!(users(&gateway).await, [user("ada", "member", Some("print"))]);
    let other = gateway.get("/api/tasks").await;
    other.expect(200);
    // One that tells no time, or one to come, would decide for good.
    let mut claimed = json!({"groups": "bosses", "team": "film", "iat": null});
    for iat in [Value::Null, json!("now"), json!(0), json!(now() + 3600), json!(1e300)] {
        claimed["iat"] = iat.clone();
        for subject in ["ada", "bob"] {
            let answer = credits(&gateway, &provider.token(subject, claimed.clone())).await;
            assert_eq!(answer.status, 401, "{iat}: {answer:?}");
        }
    }
    claimed["iat"] = json!(now() + 30);
    credits(&gateway, &provider.token("ada", claimed)).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "admin", Some("film"))]);
}

#[tokio::test]
async fn claims_that_nothing_can_be_called_are_refused_and_other_groups_are_passed_over() {
    let (gateway, provider) = with_provider(|spec| {
        spec.org_claim = Some("organisation".into());
        spec.team_claim = Some("team".into());
        spec.role_claim = Some("groups".into());
        spec.role_map = [("bosses".to_owned(), GivenRole::Admin)].into();
    })
    .await;
    for (claim, status) in [("sub", 401), ("organisation", 401), ("team", 200), ("groups", 200)] {
        for wrong in ["a\u{0}".to_owned(), "a\nb".to_owned(), "x".repeat(201)] {
            let answer = credits(&gateway, &provider.token("bob", json!({claim: wrong}))).await;
            assert_eq!(answer.status, status, "{claim}: {wrong:?}: {answer:?}");
        }
    }
    // What cannot be a role or a team gives none.
    assert_eq!(users(&gateway).await, [user("bob", "member", None)]);
    let groups = json!(["x".repeat(201), "a\u{0}", "bosses"]);
    credits(&gateway, &provider.token("ada", json!({"groups": groups, "team": "é".repeat(200)})))
        .await
        .expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "admin", None), user("bob", "member", None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tokens_that_move_a_user_stand_in_the_way_of_nobody_who_edits_it() {
    let (gateway, provider) = with_provider(|spec| spec.team_claim = Some("team".into())).await;
    let db = gateway.db.database();
    let [film, print] = ["film", "print"];
    for team in [film, print] {
        db.create_team(gateway.caller.org, team).await.unwrap();
    }
    let token = |age: i64, team: &str| provider.token("ada", json!({"iat": now() - age, "team": team}));
    credits(&gateway, &token(5000, film)).await.expect(200);
    let id: uuid::Uuid = sqlx::query_scalar("select user_id from user_identity where subject = 'ada'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    let ada = UserId::from_uuid(id);
    for round in 0..100 {
        let newer = token(4000 - round, if round % 2 == 0 { print } else { film });
        let edit = async || {
            let role = Some(if round % 2 == 0 { Role::Admin } else { Role::Member });
            db.update_user(ada, UserChange { role, ..UserChange::default() }, None).await
        };
        let (signed_in, first, second) = tokio::join!(credits(&gateway, &newer), edit(), edit());
        signed_in.expect(200);
        assert!(first.is_ok() && second.is_ok(), "round {round}: {first:?} {second:?}");
    }
}

#[tokio::test]
async fn a_suspended_or_deleted_user_stays_so_whatever_its_tokens_say() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let token = provider.token("ada", json!({}));
    create(&gateway, &token, "one").await.expect(200);
    let id: uuid::Uuid = sqlx::query_scalar("select user_id from user_identity where subject = 'ada'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    let path = format!("/admin/v1/users/{}", UserId::from_uuid(id));
    operator.patch(&path, json!({"status": "suspended"})).await.expect(200);
    until("it is suspended", async || create(&gateway, &token, "two").await.status == 403).await;
    create(&gateway, &token, "two").await.refused(403, "SUSPENDED");
    credits(&gateway, &provider.token("ada", json!({}))).await.expect(200);
    operator.patch(&path, json!({"status": "active"})).await.expect(200);
    until("it is not", async || create(&gateway, &token, "three").await.status == 200).await;
    operator.delete(&path).await.expect(204);
    until("it is refused", async || credits(&gateway, &token).await.status == 401).await;
    credits(&gateway, &provider.token("ada", json!({}))).await.expect(401);
    assert_eq!(users(&gateway).await.len(), 1, "nobody new was made of it");
}
