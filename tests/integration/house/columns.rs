//! A migration may add a column to any table while gateways run: what they have prepared before serves after it.

use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tollgate::secret::Secret;
use tollgate::store::OperatorRole;
use url::Url;

use crate::support::admin_client::AdminClient;
use crate::support::database::{alter, until};
use crate::support::gateway::{Answer, TestGateway, body};
use crate::support::identity_provider::{AUDIENCE, ISSUER, TestProvider};
use crate::support::operations::{Operation, operations};

/// Every statement stays prepared on every connection: the pool is small, and forgets none.
const CONNECTIONS: u32 = 2;
const REMEMBERED: u32 = 2_000;

/// Enough that each statement has met each connection.
const ROUNDS: u32 = 4;

/// Drives operations with arguments that they accept: each with things that were made for it.
struct Driver<'a> {
    gateway: &'a TestGateway,
    operator: AdminClient<'a>,
    provider: TestProvider,
    made: AtomicU32,
}

/// What an operation is about: an organisation with credits and a user, and what the parameters of its path name.
struct Subject {
    org: String,
    user: String,
    values: Vec<(String, String)>,
}

impl<'a> Driver<'a> {
    async fn new(gateway: &'a TestGateway) -> Self {
        let operator = AdminClient::operator(gateway, OperatorRole::Operator).await;
        let driver =
            Self { gateway, operator, provider: TestProvider::start().await, made: AtomicU32::new(0) };
        let mut provider = driver.provider_body();
        provider["org_id"] = json!(gateway.caller.org);
        provider["audiences"] = json!([AUDIENCE]);
        provider["issuer"] = json!(ISSUER);
        driver.make("/admin/v1/identity-providers", provider).await;
        driver
    }

    /// A text that nothing was called before.
    fn fresh(&self) -> String {
        format!("thing {}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        self.operator.post(path, body).await.expect(201)
    }

    /// Makes something, and tells its id.
    async fn id(&self, path: &str, body: Value, field: &str) -> String {
        let made = self.make(path, body).await;
        made[field].as_str().unwrap_or_else(|| panic!("{path} tells no {field}: {made}")).to_owned()
    }

    fn provider_body(&self) -> Value {
        json!({
            "name": self.fresh(), "issuer": self.fresh(), "audiences": [self.fresh()],
            "jwks_url": self.provider.endpoint.url(), "org_claim": "organisation", "create_users": true,
        })
    }

    async fn draft(&self) -> String {
        let book = self.make("/admin/v1/price-books", json!({"name": self.fresh(), "copy_of": 1})).await;
        book["version"].to_string()
    }

    /// A task whose outcome nobody knows, and the vendor's id of it, where it has one.
    async fn doubt(&self, fault: &str) -> (String, Option<String>) {
        self.gateway.fault_on_create(json!({"kind": fault})).await;
        let reference = self.gateway.create(&body(&self.fresh())).await.reference();
        self.gateway.script(json!({"rules": []})).await;
        until("it is in doubt", async || {
            let listed = self.operator.get("/admin/v1/holds/in-doubt").await.expect(200);
            let mut doubts = listed["items"].as_array().unwrap().iter();
            // A create waits a second for its excerpt and is sent without it: then it comes a little later.
            doubts.any(|doubt| doubt["hold_id"] == reference && doubt["prompt_digest"].is_string())
        })
        .await;
        let books = self.gateway.books().await;
        let task = books["tasks"].as_array().unwrap().last().cloned();
        (reference, task.and_then(|task| task["task_id"].as_str().map(ToOwned::to_owned)))
    }

    async fn subject(&self, operation: &Operation) -> Subject {
        let org = self.id("/admin/v1/orgs", json!({"name": self.fresh()}), "org_id").await;
        let of_org = |what: &str| format!("/admin/v1/orgs/{org}/{what}");
        self.make(&of_org("credits/grants"), json!({"credits": 1000, "reason": "a test"})).await;
        let user = self.id(&of_org("users"), json!({"name": self.fresh()}), "user_id").await;
        let mut values = Vec::new();
        for name in &operation.parameters {
            let value = match name.as_str() {
                "org_id" => org.clone(),
                "user_id" => user.clone(),
                "team_id" => self.id(&of_org("teams"), json!({"name": self.fresh()}), name).await,
                "key_id" => {
                    self.id(&of_org("keys"), json!({"user_id": user, "name": self.fresh()}), name).await
                }
                "budget_id" => {
                    let budget =
                        json!({"level": "user", "subject_id": user, "period": "daily", "credits": 1000});
                    self.id(&of_org("budgets"), budget, name).await
                }
                "request_id" => self.budget_request(&org, &user).await,
                "token_id" => {
                    let token = json!({"name": self.fresh(), "role": "operator_read"});
                    self.id("/admin/v1/operator-tokens", token, name).await
                }
                "provider_id" => self.id("/admin/v1/identity-providers", self.provider_body(), name).await,
                "identity_id" => self.id(&of_org("identities"), self.identity_body(&user).await, name).await,
                "factor_id" => {
                    let factor = json!({"factor_bp": 9000, "reason": "a test"});
                    self.id(&of_org("price-factors"), factor, name).await
                }
                "version" => self.draft().await,
                "task_type" => "pro-text-to-video".into(),
                "month" => OffsetDateTime::now_utc().format(&Rfc3339).unwrap()[..7].to_owned(),
                // Made with the body that goes with it.
                "hold_id" => String::new(),
                other => panic!("{operation}: what is a plausible {other}?"),
            };
            values.push((name.clone(), value));
        }
        Subject { org, user, values }
    }

    /// A member's request for more of a budget, which is there by then.
    async fn budget_request(&self, org: &str, user: &str) -> String {
        let budget = json!({"level": "user", "subject_id": user, "period": "daily", "credits": 1000});
        self.make(&format!("/admin/v1/orgs/{org}/budgets"), budget).await;
        let path = format!("/admin/v1/orgs/{org}/budget-requests");
        self.id(&path, Self::request_body(user), "request_id").await
    }

    fn request_body(user: &str) -> Value {
        let later = OffsetDateTime::now_utc() + time::Duration::days(1);
        let later = later.format(&Rfc3339).unwrap();
        json!({"level": "user", "period": "daily", "credits": 2000, "until": later, "reason": "a test", "user_id": user})
    }

    async fn identity_body(&self, user: &str) -> Value {
        let provider = self.id("/admin/v1/identity-providers", self.provider_body(), "provider_id").await;
        json!({"provider_id": provider, "subject": self.fresh(), "user_id": user})
    }

    /// What has to be there before a call, and its body.
    async fn body(&self, operation: &Operation, subject: &mut Subject, round: u32) -> Option<Value> {
        let later = OffsetDateTime::now_utc() + time::Duration::days(1);
        let later = later.format(&Rfc3339).unwrap();
        let (org, user) = (subject.org.clone(), subject.user.clone());
        let version = || {
            let found = subject.values.iter().find(|(name, _)| name == "version");
            found.map(|(_, version)| format!("/admin/v1/price-books/{version}/activate"))
        };
        Some(match operation.to_string().as_str() {
            "POST /admin/v1/orgs" => json!({"name": self.fresh()}),
            "PATCH /admin/v1/orgs/{org_id}" => json!({"time_zone": "Europe/Berlin", "max_open_tasks": 7}),
            "POST /admin/v1/orgs/{org_id}/restore" => json!({"name": self.fresh()}),
            "POST /admin/v1/orgs/{org_id}/teams" | "PATCH /admin/v1/teams/{team_id}" => {
                json!({"name": self.fresh()})
            }
            "POST /admin/v1/orgs/{org_id}/users" | "PATCH /admin/v1/users/{user_id}" => {
                json!({"name": self.fresh(), "role": "admin"})
            }
            "POST /admin/v1/users/{user_id}/forget" => json!({"erase_content": true}),
            "POST /admin/v1/orgs/{org_id}/keys" => json!({"user_id": user, "name": self.fresh()}),
            "PATCH /admin/v1/keys/{key_id}" => json!({"name": self.fresh()}),
            "POST /admin/v1/keys/{key_id}/rotate" => json!({"overlap_seconds": 60}),
            "POST /admin/v1/operator-tokens" => json!({"name": self.fresh(), "role": "operator_read"}),
            "POST /admin/v1/orgs/{org_id}/budgets" => {
                json!({"level": "organisation", "period": "total", "credits": 1_000_000})
            }
            // One of each level and period: each round makes another.
            "POST /admin/v1/budgets" => {
                let periods = ["total", "daily", "weekly", "monthly"];
                let levels = ["key", "user", "team", "organisation"];
                json!({"level": levels[round as usize / 4], "period": periods[round as usize % 4], "credits": null})
            }
            "PATCH /admin/v1/budgets/{budget_id}" => json!({"credits": 2000}),
            "POST /admin/v1/budgets/{budget_id}/raise" => json!({"credits": 3000, "until": later}),
            "PATCH /admin/v1/orgs/{org_id}/credits" => json!({"low_threshold": 5}),
            "POST /admin/v1/orgs/{org_id}/credits/grants" => {
                json!({"credits": 10, "reason": "a test", "external_ref": self.fresh(), "expires_at": later})
            }
            "POST /admin/v1/orgs/{org_id}/credits/adjustments" => json!({"credits": -5, "reason": "a test"}),
            "POST /admin/v1/transfers" => {
                json!({"from_org": org, "to_org": self.gateway.caller.org, "credits": 5, "reason": "a test"})
            }
            "PUT /admin/v1/orgs/{org_id}/credits/overdraft" => json!({"overdraft": 50}),
            "POST /admin/v1/orgs/{org_id}/credits/resume" => json!({"reason": "a test"}),
            "POST /admin/v1/holds/{hold_id}/settle" => {
                let (hold, task) = self.doubt("cut_after").await;
                subject.values = vec![("hold_id".into(), hold)];
                json!({"task_id": task.unwrap(), "reason": "it is in their list"})
            }
            "POST /admin/v1/holds/{hold_id}/release" => {
                let (hold, _) = self.doubt("cut_before").await;
                subject.values = vec![("hold_id".into(), hold)];
                json!({"reason": "it is not in their list"})
            }
            "POST /admin/v1/holds/{hold_id}/take-back" => {
                let (hold, task) = self.doubt("cut_after").await;
                let body = json!({"task_id": task.unwrap(), "reason": "it is in their list"});
                self.gateway.fault_on_status(json!({"kind": "status_word", "value": "QUEUED"})).await;
                self.operator.post(&format!("/admin/v1/holds/{hold}/settle"), body).await.expect(200);
                subject.values = vec![("hold_id".into(), hold)];
                json!({"reason": "it was another one"})
            }
            "GET /admin/v1/holds/{hold_id}" => {
                let (hold, _) = self.doubt("cut_before").await;
                subject.values = vec![("hold_id".into(), hold)];
                return None;
            }
            "POST /admin/v1/orgs/{org_id}/adopt-task" => {
                let (hold, task) = self.doubt("cut_after").await;
                let release = format!("/admin/v1/holds/{hold}/release");
                self.operator
                    .post(&release, json!({"reason": "its organisation is another one"}))
                    .await
                    .expect(200);
                json!({"user_id": user, "backend": "kling-3.0", "task_id": task.unwrap(), "reason": "a restore lost it"})
            }
            "POST /admin/v1/holds/{hold_id}/read-request" => {
                let (hold, _) = self.doubt("cut_before").await;
                subject.values = vec![("hold_id".into(), hold)];
                return None;
            }
            "POST /admin/v1/identity-providers" => self.provider_body(),
            "PATCH /admin/v1/identity-providers/{provider_id}" => json!({"leeway_seconds": 30}),
            "POST /admin/v1/orgs/{org_id}/identities" => self.identity_body(&user).await,
            "POST /admin/v1/price-books" => {
                json!({"name": self.fresh(), "prices": {"pro-text-to-video": {"unit": "fixed", "credits": 5}}})
            }
            "PATCH /admin/v1/price-books/{version}" => json!({"name": self.fresh()}),
            "PUT /admin/v1/price-books/{version}/prices/{task_type}" => {
                json!({"unit": "fixed", "credits": 5})
            }
            "PATCH /admin/v1/orgs/{org_id}/key-policy" => {
                json!({"enabled": true, "max_days": 30, "key_budget": {"period": "daily", "credits": 5}})
            }
            "POST /admin/v1/orgs/{org_id}/budget-requests" => {
                self.budget_request(&org, &user).await;
                Self::request_body(&user)
            }
            "POST /admin/v1/orgs/{org_id}/budget-requests/{request_id}/grant"
            | "POST /admin/v1/orgs/{org_id}/budget-requests/{request_id}/decline" => {
                json!({"answer": "as you like"})
            }
            "PATCH /admin/v1/orgs/{org_id}/quotas" => json!({"users": 20_000}),
            "PATCH /admin/v1/orgs/{org_id}/retention" => json!({"content_days": 7}),
            "POST /admin/v1/price-books/{version}/activate" => json!({}),
            "POST /admin/v1/price-books/{version}/unschedule" => {
                self.operator.post(&version().unwrap(), json!({"at": later})).await.expect(200);
                return None;
            }
            "POST /admin/v1/price-books/rollback" => {
                let draft = self.draft().await;
                let activate = format!("/admin/v1/price-books/{draft}/activate");
                self.operator.post(&activate, json!({})).await.expect(200);
                json!({})
            }
            "POST /admin/v1/orgs/{org_id}/price-factors" => json!({"factor_bp": 9000, "reason": "a test"}),
            "POST /admin/v1/orgs/{org_id}/price-factors/{factor_id}/end" => json!({}),
            other => {
                assert!(!operation.takes_body, "{other}: what is a plausible body?");
                return None;
            }
        })
    }

    /// Calls every operation of the management API; tells what did not succeed.
    async fn manage(&self, round: u32, wrong: &mut Vec<String>) {
        let document = self.operator.get("/openapi.json").await.expect(200);
        let all = operations(&document);
        assert!(all.len() > 70, "this is not the whole document");
        for operation in &all {
            let mut subject = self.subject(operation).await;
            let body = self.body(operation, &mut subject, round).await;
            let value = |name: &str| {
                subject
                    .values
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
                    .unwrap()
            };
            let query = match operation.path.as_str() {
                "/admin/v1/usage" | "/admin/v1/orgs/{org_id}/usage" => {
                    "?group_by=org,day,team,user,key,task_type"
                }
                "/admin/v1/audit-log" if round % 2 == 1 => "?order=asc",
                "/admin/v1/orgs/{org_id}" if operation.method == Method::DELETE => "?forfeit_credits=true",
                "/admin/v1/orgs/{org_id}/entries" if round % 2 == 1 => "?kind=grant",
                _ => "",
            };
            let path = format!("{}{query}", operation.path_with(value));
            let answer = self.operator.call(operation.method.clone(), &path, body).await;
            if !answer.status.is_success() {
                wrong.push(format!("{operation}: {} {}", answer.status, answer.body));
            }
        }
    }

    /// Calls every operation of the data plane, by whoever has this token.
    async fn use_as(&self, token: &str, wrong: &mut Vec<String>) {
        let gateway = self.gateway;
        let document: Value =
            gateway.request(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
        let call = async |method: Method, path: &str, sent: Option<Value>| {
            let mut request = gateway.request(method, path).bearer_auth(token);
            if let Some(sent) = sent {
                request = request.body(sent.to_string());
            }
            request.send().await.unwrap()
        };
        let created = Answer::of(call(Method::POST, "/api/generate", Some(body(&self.fresh()))).await).await;
        let task = created.task_id();
        let all = operations(&document);
        assert!(all.len() >= 5, "this is not the whole document");
        for operation in &all {
            let path = match operation.path.as_str() {
                "/api/status" => format!("/api/status?task_id={task}"),
                other => other.replace("{task_id}", &task),
            };
            let sent = operation.takes_body.then(|| body(&self.fresh()));
            let answer = call(operation.method.clone(), &path, sent).await;
            if !answer.status().is_success() {
                wrong.push(format!("{operation}: {} {}", answer.status(), answer.text().await.unwrap()));
            }
        }
        until("the task has ended", async || {
            let answer =
                Answer::of(call(Method::GET, &format!("/api/status?task_id={task}"), None).await).await;
            answer.data()["status"] != "IN_PROGRESS"
        })
        .await;
    }

    /// Every operation of both documents, by an operator, by a key and by a subject that were never seen.
    async fn drive(&self, round: u32) -> Vec<String> {
        let mut wrong = Vec::new();
        self.manage(round, &mut wrong).await;
        let caller = &self.gateway.caller;
        let key = json!({"user_id": caller.user, "name": self.fresh()});
        let key = self.make(&format!("/admin/v1/orgs/{}/keys", caller.org), key).await;
        self.use_as(key["api_key"].as_str().unwrap(), &mut wrong).await;
        let token = self.provider.token(&self.fresh(), json!({"organisation": caller.org}));
        until("the provider is known", async || {
            let call = self.gateway.request(Method::GET, "/api/credits").bearer_auth(&token);
            Answer::to(call).await.status != 401
        })
        .await;
        self.use_as(&token, &mut wrong).await;
        wrong
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operation_minds_a_column_that_a_migration_adds_to_any_table() {
    let gateway = TestGateway::builder()
        .config(|config| {
            for url in &mut config.database.urls {
                let mut with = Url::parse(url.expose()).unwrap();
                with.query_pairs_mut().append_pair("statement-cache-capacity", &REMEMBERED.to_string());
                *url = Secret::new(with);
            }
            config.database.max_connections = CONNECTIONS;
        })
        .start()
        .await;
    let driver = Driver::new(&gateway).await;
    for round in 0..ROUNDS {
        let wrong = driver.drive(round).await;
        assert!(wrong.is_empty(), "before anything was added: {wrong:#?}");
    }

    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I', c.relname) from pg_class c where c.relnamespace = 'public'::regnamespace \
         and c.relkind in ('r', 'p') and not c.relispartition",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    assert!(tables.len() > 25, "these are not all tables: {tables:?}");
    for table in tables {
        alter(gateway.db.pool(), &format!("alter table {table} add column later_added text")).await;
    }

    let wrong = driver.drive(ROUNDS).await;
    assert!(wrong.is_empty(), "after a column was added to every table: {wrong:#?}");
    until("it is ready", async || {
        gateway.client.get(gateway.admin_url("/readyz")).send().await.unwrap().status() == 200
    })
    .await;
}
