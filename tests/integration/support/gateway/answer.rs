//! An answer of the gateway, held against what is true of all answers.

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response};
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn to(request: RequestBuilder) -> Self {
        Self::of(request.send().await.unwrap()).await
    }

    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Self { status, headers, text: response.text().await.unwrap() };
        answer.check();
        answer
    }

    /// What the contract says of every answer.
    pub fn check(&self) {
        assert!(self.header("x-request-id").starts_with("req_"), "{self:?}");
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store", "{self:?}");
        assert_eq!(self.header("x-content-type-options"), "nosniff", "{self:?}");
        let json = self.json();
        assert_eq!(json["code"], self.status, "{self:?}");
        assert!(json["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert_eq!(json["error"].is_string(), self.status != 200, "{self:?}");
        let parks = matches!(self.status, 402 | 429 | 503);
        if parks {
            assert!(self.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{self:?}");
        }
    }

    /// The value of a header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// The body of a refusal with this code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let json = self.expect(status);
        assert_eq!(json["error"], code, "{self:?}");
        json
    }

    /// The `data` of a success.
    #[track_caller]
    pub fn data(&self) -> Value {
        self.expect(200)["data"].clone()
    }

    #[track_caller]
    pub fn task_id(&self) -> String {
        self.data()["task_id"].as_str().unwrap().to_owned()
    }

    /// Our reference in a 504.
    #[track_caller]
    pub fn reference(&self) -> String {
        let json = self.refused(504, "OUTCOME_UNKNOWN");
        let reference = json["data"]["task_id"].as_str().unwrap().to_owned();
        assert!(json["message"].as_str().unwrap().contains(&reference), "{json}");
        reference
    }
}
