//! TLS to a node: known by the fingerprint of its certificate, or by an authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::error::Error;

/// How the command line knows that the node is the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Its certificate has this fingerprint, `sha256:…`.
    Pin(String),
    /// An authority in this PEM file has signed its certificate for its name.
    Authority(PathBuf),
}

impl Trust {
    /// Reads what `--pin` or `--ca` say; none: neither is given.
    pub(crate) fn read(pin: Option<&str>, ca: Option<&Path>) -> Result<Option<Self>, Error> {
        let Some(pin) = pin else {
            return Ok(ca.map(|path| Self::Authority(path.to_owned())));
        };
        let digits = pin.strip_prefix("sha256:").unwrap_or(pin);
        let digits = digits.replace(':', "").to_ascii_lowercase();
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::Pin {
                text: pin.to_owned(),
            });
        }
        Ok(Some(Self::Pin(format!("sha256:{digits}"))))
    }
}

/// Shakes hands with the node at `authority` and makes sure that it is the one that is meant.
pub(crate) async fn connect(
    stream: TcpStream,
    authority: &str,
    trust: &Trust,
) -> Result<TlsStream<TcpStream>, Error> {
    let failed = |source| Error::Tls {
        address: authority.to_owned(),
        source,
    };
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let config = match trust {
        Trust::Pin(pin) => config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                pin: pin.clone(),
                provider,
            }))
            .with_no_client_auth(),
        Trust::Authority(path) => config
            .with_root_certificates(authorities(path)?)
            .with_no_client_auth(),
    };
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(failed)
}

fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let failed = |source: std::io::Error| Error::Source {
        step: "read the certificates in",
        path: path.to_owned(),
        source,
    };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| failed(std::io::Error::other(error)))?;
    let mut store = RootCertStore::empty();
    let (added, _unusable) = store.add_parsable_certificates(certificates);
    if added == 0 {
        let problem = "it holds no certificate of an authority";
        return Err(failed(std::io::Error::other(problem)));
    }
    Ok(store)
}

/// Takes the one certificate that has the fingerprint, whatever names it carries, if the peer has its key.
#[derive(Debug)]
struct Pinned {
    pin: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = rest::fingerprint(end_entity);
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "its certificate has the fingerprint {found}, not {}",
            self.pin
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_taken_as_people_copy_it() {
        let digits = "ab".repeat(32);
        let pin = Trust::Pin(format!("sha256:{digits}"));
        let colons = ["AB"; 32].join(":");
        for text in [digits.clone(), format!("sha256:{digits}"), colons] {
            assert_eq!(Trust::read(Some(&text), None).unwrap(), Some(pin.clone()));
        }
        for bad in [
            "",
            "sha256:",
            "sha1:ab",
            &digits[2..],
            &format!("{digits}0"),
        ] {
            assert!(Trust::read(Some(bad), None).is_err(), "{bad}");
        }
        assert_eq!(Trust::read(None, None).unwrap(), None);
    }
}
