//! People of a large organisation: lists have room for the first ones, and any other is found by its name.

use tollgate::store::{KeySpec, NewUser, Role};

use crate::support::browser::Browser;
use crate::support::gateway::TestGateway;

/// More than any list of people shows.
const OTHERS: u32 = 205;

#[tokio::test]
async fn an_admin_finds_a_person_that_no_list_has_room_for() {
    let gateway = TestGateway::start().await;
    let (database, org) = (gateway.db.database(), gateway.caller.org);
    let admin = gateway.another_user("boss", "admin").await;
    let member = |name: String| NewUser { name, role: Role::Member, team: None };
    for number in 0..OTHERS {
        database.add_user(org, &member(format!("user {number}"))).await.unwrap();
    }
    let zoe = database.add_user(org, &member("Zoe <b>Last".into())).await.unwrap();
    let spec = KeySpec { name: "hers".into(), env: "test".into(), ..KeySpec::default() };
    database.create_key(org, zoe, &spec).await.unwrap();
    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;

    let links = [format!("/console/keys?user={zoe}"), format!("/console/clips?user={zoe}")];
    let first = boss.get("/console/people").await.shown();
    assert!(links.iter().all(|link| !first.text.contains(link)), "{}", first.text);
    let found = boss.get("/console/people?search=zOE+%3Cb").await.shown();
    assert!(links.iter().all(|link| found.text.contains(link)), "{}", found.text);
    assert_eq!(found.text.matches("/console/keys?user=").count(), 1, "{}", found.text);
    assert!(found.text.contains("value=\"zOE &#60;b\""), "{}", found.text);
    let many = boss.get("/console/people?search=user").await.shown();
    assert!(many.text.contains("search=user\" rel=\"next\""), "{}", many.text);
    let nobody = boss.get("/console/people?search=nobody").await.shown();
    assert!(nobody.text.contains("Nobody has such a name."), "{}", nobody.text);

    let keys = boss.get(&links[0]).await.shown();
    assert!(keys.text.contains("Keys of <bdi class=\"name\">Zoe"), "{}", keys.text);
    assert_eq!(keys.text.matches("/rename\"").count(), 1, "{}", keys.text);
    let chosen = format!("<option value=\"{zoe}\" selected>Zoe");
    assert!(keys.text.contains(&chosen), "{}", keys.text);
    // A form that is refused must not become one for somebody else.
    let refused = [("user", &*zoe.to_string()), ("name", "second"), ("networks", "nowhere")];
    let again = boss.post("/console/keys", &refused).await;
    assert!(again.status == 400 && again.text.contains(&chosen), "{}", again.text);
    let made = boss.post("/console/keys", &[("user", &zoe.to_string()), ("name", "second")]).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let keys = boss.get(&links[0]).await.shown();
    assert_eq!(keys.text.matches("/rename\"").count(), 2, "{}", keys.text);

    let clips = boss.get(&links[1]).await.shown();
    assert!(clips.text.contains(&chosen), "{}", clips.text);

    // A member sees its own keys, whoever is named.
    let mut member = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let own = member.get(&links[0]).await.shown();
    assert!(own.text.contains("Your keys") && !own.text.contains("Zoe"), "{}", own.text);
}
