//! The address of the connection a request came by.

use std::net::IpAddr;

/// The address of the connection a request came by; the server puts it among the extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);
