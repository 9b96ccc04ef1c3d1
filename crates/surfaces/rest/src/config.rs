//! What the operator decides about the API.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::TlsFiles;

/// Port of the API when nothing else is asked for.
pub const DEFAULT_PORT: u16 = 7717;

/// Where the API listens and under which names it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address for token holders; port 0 takes a free one; none: only the Unix socket. Other than loopback it needs `tls`.
    pub tcp: Option<SocketAddr>,
    /// Unix socket for the users of this machine.
    pub unix_socket: PathBuf,
    /// Names besides `localhost`, `127.0.0.1` and `[::1]` that a `Host` header may carry, without a port.
    pub allowed_hosts: Vec<String>,
    /// Certificate of the TCP door; none: it speaks plain HTTP.
    pub tls: Option<TlsFiles>,
}

impl Config {
    /// The default port on loopback and the given socket.
    #[must_use]
    pub fn new(unix_socket: PathBuf) -> Self {
        Self {
            tcp: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))),
            unix_socket,
            allowed_hosts: Vec::new(),
            tls: None,
        }
    }
}
