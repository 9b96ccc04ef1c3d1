//! Takes the address and the socket before anything is served, or says exactly why it can't.

mod port_holder;
mod unix_socket;

use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;

use crate::tls::{self, Tls};
use crate::{Config, Error};

pub use port_holder::PortHolder;
pub(crate) use unix_socket::SocketListener;

/// Both listeners, taken and not yet served.
#[derive(Debug)]
pub struct Bound {
    pub(crate) tcp: Option<TcpListener>,
    pub(crate) tcp_address: Option<SocketAddr>,
    pub(crate) socket: SocketListener,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) tls: Option<Tls>,
}

impl Bound {
    /// Address of the TCP listener with its real port; none where there is none.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// Where token holders find it, as they write it; none where there is no TCP listener.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.tcp_address
            .map(|address| format!("{scheme}://{address}"))
    }

    /// Fingerprint of the certificate, by which the command line knows the node.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.fingerprint.as_str())
    }

    /// Refuses to let other machines at a door that nobody can enter. A node that cannot know now whether anybody can
    /// (no majority answers) goes on: each request needs a token anyway.
    ///
    /// # Errors
    /// Other machines reach the address, and there is no user token.
    pub async fn refuse_without_tokens(&self, service: &service::Handle) -> Result<(), Error> {
        let Some(address) = self
            .tcp_address
            .filter(|address| !address.ip().is_loopback())
        else {
            return Ok(());
        };
        match service.has_user_token().await {
            Some(true) => Ok(()),
            Some(false) => Err(Error::NoUserToken { address }),
            None => {
                tracing::warn!(%address, "no majority answers: it is not known whether anybody has a user token");
                Ok(())
            }
        }
    }

    /// Path of the Unix socket.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        self.socket.path()
    }
}

/// Takes the address and the socket of `config`; never another port than the asked one.
///
/// # Errors
/// An address that other machines reach without TLS, an unusable certificate, a port or socket in use (naming who has it), or a failed system call.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn bind(config: &Config) -> Result<Bound, Error> {
    let tls = match config.tls.clone() {
        Some(files) => {
            let loading = tokio::task::spawn_blocking(move || tls::load(&files));
            Some(
                loading
                    .await
                    .expect("loading does not panic, and nobody aborts it")?,
            )
        }
        None => None,
    };
    let tcp = match config.tcp {
        Some(address) => Some(bind_tcp(address, tls.is_some()).await?),
        None => None,
    };
    let (tcp, tcp_address) = tcp.unzip();
    Ok(Bound {
        tcp,
        tcp_address,
        socket: SocketListener::bind(&config.unix_socket).await?,
        allowed_hosts: config.allowed_hosts.clone(),
        tls,
    })
}

async fn bind_tcp(address: SocketAddr, has_tls: bool) -> Result<(TcpListener, SocketAddr), Error> {
    if !address.ip().is_loopback() && !has_tls {
        return Err(Error::NotLoopback { address });
    }
    let taken = TcpListener::bind(address).await;
    match taken.and_then(|listener| listener.local_addr().map(|bound| (listener, bound))) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let holder = port_holder::find(address.port()).await;
            Err(Error::PortInUse { address, holder })
        }
        Err(source) => Err(Error::BindTcp { address, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, tcp: &str) -> Config {
        Config {
            tcp: Some(tcp.parse().unwrap()),
            ..Config::new(directory.join("api.sock"))
        }
    }

    #[tokio::test]
    async fn port_zero_takes_a_free_port_and_says_which() {
        let directory = tempfile::tempdir().unwrap();
        let bound = bind(&config(directory.path(), "127.0.0.1:0"))
            .await
            .unwrap();
        assert_ne!(bound.tcp_address().unwrap().port(), 0);
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused_and_its_holder_named() {
        let directory = tempfile::tempdir().unwrap();
        let first = bind(&config(directory.path(), "127.0.0.1:0"))
            .await
            .unwrap();
        let address = first.tcp_address().unwrap();
        let second = config(&directory.path().join("other"), &address.to_string());
        let message = bind(&second).await.unwrap_err().to_string();
        for part in [
            format!("port {}", address.port()),
            format!("process {} (", std::process::id()),
            "--port".to_owned(),
        ] {
            assert!(message.contains(&part), "{part:?} is not in {message:?}");
        }
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let error = bind(&config(directory.path(), "0.0.0.0:0"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("TLS"), "{error}");
    }
}
