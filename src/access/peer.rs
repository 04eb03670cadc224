//! The address of the connection that a request arrived on.

use std::net::IpAddr;

/// The address of the connection that a request arrived on; the server adds it to the request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);
