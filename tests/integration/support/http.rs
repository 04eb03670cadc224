//! HTTP clients.

use reqwest::{Client, ClientBuilder};

use super::database::PATIENCE;

/// A client of servers that tests have started.
pub fn client() -> Client {
    builder().build().unwrap()
}

/// The same, to be changed. It speaks plain HTTP only: `reqwest` is built without TLS here.
pub fn builder() -> ClientBuilder {
    Client::builder().timeout(PATIENCE)
}
