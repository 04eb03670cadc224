//! The first clip of a demo: its console opens on a finished one. It is bought as every other one is, by a create with the demo's key.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::credits::Credits;
use crate::https::{Client, ClientSettings, HttpVersion, Trust};
use crate::secret::Secret;
use crate::strict;

/// The simulator finishes this one at once.
pub(super) const PROMPT: &str = "A paper boat on a pond, in the first sun of the morning";

/// What it costs; granted beside the credits that a demo begins with.
pub(super) const PRICE: Credits = Credits::new(108);

const TIMEOUT: Duration = Duration::from_secs(30);

/// Far longer than any answer about one task.
const MAX_ANSWER: usize = 1 << 20;

/// How long one waits between two looks at the task, and how often one looks.
const PAUSE: Duration = Duration::from_millis(500);
const LOOKS: u32 = 120;

/// Buys the clip, and asks for its state until it has ended, because that is what makes the gateway ask the vendor soon.
pub(super) async fn buy(base_url: String, key: Secret) {
    if let Err(why) = create(&base_url, &key).await {
        tracing::warn!(why, "the demo's first clip could not be made");
    }
}

async fn create(base_url: &str, key: &Secret) -> Result<(), String> {
    let settings = ClientSettings {
        trust: Trust::Any,
        proxy: None,
        version: HttpVersion::Http1,
        connect_timeout: TIMEOUT,
        idle_timeout: Duration::from_secs(5),
    };
    let client = Client::new(&settings, TIMEOUT, MAX_ANSWER).map_err(|error| error.to_string())?;
    let body =
        json!({"type": "o3-std-text-to-video", "prompt": PROMPT, "duration": 3, "aspect_ratio": "16:9"});
    let call = async |method: Method, place: String, body: String| {
        let request = Request::builder().method(method).uri(format!("{base_url}{place}"));
        let request = request.header("authorization", format!("Bearer {}", key.expose()));
        // Two starts may come to this at once: they buy one clip.
        let request = request.header("idempotency-key", "tollgate-demo-first-clip");
        let request = request.header("x-tollgate-labels", "project=demo");
        let request = request.body(Bytes::from(body)).map_err(|error| error.to_string())?;
        let answer = client.call(request).await.map_err(|error| error.to_string())?;
        let read: Value = strict::read_json(&answer.body).map_err(|error| error.to_string())?;
        if answer.status.is_success() { Ok(read) } else { Err(read["message"].to_string()) }
    };
    let created = call(Method::POST, "/api/generate".into(), body.to_string()).await?;
    let task = created["data"]["task_id"].as_str().unwrap_or_default().to_owned();
    for _ in 0..LOOKS {
        let state = call(Method::GET, format!("/api/status?task_id={task}"), String::new()).await?;
        if state["data"]["status"] != "IN_PROGRESS" {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
