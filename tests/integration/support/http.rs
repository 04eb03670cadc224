//! HTTP clients.

use reqwest::{Client, ClientBuilder};

use super::database::PATIENCE;

/// A client of servers that tests have started.
pub fn client() -> Client {
    builder().build().unwrap()
}

/// The same, to be changed. It speaks plain HTTP: reading the certificates that the machine trusts would take longer than
/// most tests.
pub fn builder() -> ClientBuilder {
    Client::builder().tls_certs_only([]).timeout(PATIENCE)
}
