//! A browser for the console: it keeps cookies, follows redirects of forms, and sends what browsers send.

use std::collections::BTreeMap;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder, Response};

use super::gateway::TestGateway;
use super::http;

/// A page as the browser got it.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Page {
    async fn of(answer: Response) -> Self {
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, text: answer.text().await.unwrap() }
    }

    /// Where the answer sends the browser.
    pub fn place(&self) -> &str {
        self.headers.get(LOCATION).map_or("", |place| place.to_str().unwrap())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A page that must have been shown.
    pub fn shown(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.text);
        self
    }

    /// The value of the first input with this name.
    pub fn input(&self, name: &str) -> String {
        let at = self
            .text
            .find(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("no {name}: {}", self.text));
        let rest = self.text[at..].split_once("value=\"").unwrap().1;
        rest.split_once('"').unwrap().0.to_owned()
    }
}

/// One browser on one console.
pub struct Browser {
    client: Client,
    /// Such as `http://127.0.0.1:8080`.
    origin: String,
    pub cookies: BTreeMap<String, String>,
}

impl Browser {
    /// On the data listener.
    pub fn of_members(gateway: &TestGateway) -> Self {
        Self::at(format!("http://{}", gateway.address()))
    }

    /// On the operations listener.
    pub fn of_operators(gateway: &TestGateway) -> Self {
        Self::at(gateway.admin_url(""))
    }

    /// On the console of this address.
    pub fn at(origin: String) -> Self {
        let client = http::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, origin, cookies: BTreeMap::new() }
    }

    /// Signed in with this key or token.
    pub async fn signed_in(mut self, credential: &str) -> Self {
        let page = self.post("/console/sign-in", &[("credential", credential)]).await;
        assert_eq!(page.status, 303, "{}", page.text);
        assert!(!self.cookies.is_empty(), "a session is kept");
        self
    }

    /// A request with the cookies.
    pub fn request(&self, method: Method, place: &str) -> RequestBuilder {
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = self.client.request(method, format!("{}{place}", self.origin));
        if cookies.is_empty() { request } else { request.header(COOKIE, cookies.join("; ")) }
    }

    pub async fn send(&mut self, request: RequestBuilder) -> Page {
        let answer = request.send().await.unwrap();
        for set in answer.headers().get_all(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Page::of(answer).await
    }

    pub async fn get(&mut self, place: &str) -> Page {
        let request = self.request(Method::GET, place).header("sec-fetch-site", "same-origin");
        self.send(request).await
    }

    /// Sends a form from a page of the console.
    pub async fn post(&mut self, place: &str, fields: &[(&str, &str)]) -> Page {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        fields.iter().for_each(|(name, value)| {
            form.append_pair(name, value);
        });
        let request = self.request(Method::POST, place).header("sec-fetch-site", "same-origin");
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.finish());
        self.send(request).await
    }
}
