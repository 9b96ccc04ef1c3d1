//! TLS of the TCP door: a certificate from files, given or made at the first start, and its fingerprint.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::Error;

/// Permission bits that let anyone but the owner at a file.
const OTHERS: u32 = 0o077;

/// Where the certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: its private key, which only the owner of the file may read.
    pub key: PathBuf,
    /// Make both, signed by itself for these names and addresses, if neither is there.
    pub make_for: Option<Vec<String>>,
}

/// A door that speaks TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) fingerprint: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.fingerprint)
    }
}

/// SHA-256 of a certificate (DER) as people compare it: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    let digits = Sha256::digest(certificate);
    let digits: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Reads the files, after making them if that is wanted and neither is there.
pub(crate) fn load(files: &TlsFiles) -> Result<Tls, Error> {
    if let Some(names) = &files.make_for
        && !files.certificate.exists()
        && !files.key.exists()
    {
        make(files, names)?;
    }
    refuse_readable(&files.key)?;
    let unusable = |path: &Path, problem: String| Error::Certificate {
        path: path.to_owned(),
        problem,
    };
    let read = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let certificates: Vec<CertificateDer<'static>> =
        read.map_err(|error| unusable(&files.certificate, error.to_string()))?;
    let Some(first) = certificates.first() else {
        let problem = "it holds no certificate in PEM form".to_owned();
        return Err(unusable(&files.certificate, problem));
    };
    let fingerprint = fingerprint(first);
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unusable(&files.key, error.to_string()))?;
    let config = server_config(certificates, key).map_err(|error| {
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key in {} is not its own", files.key.display())
            }
            other => other.to_string(),
        };
        unusable(&files.certificate, problem)
    })?;
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        fingerprint,
    })
}

fn server_config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A private key that others can read is no secret.
fn refuse_readable(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::Certificate {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(Error::Certificate {
        path: path.to_owned(),
        problem: format!(
            "other users of this machine may read it (mode {mode:04o}): run `chmod 600 {}`, and make a new key if they may have",
            path.display()
        ),
    })
}

fn make(files: &TlsFiles, names: &[String]) -> Result<(), Error> {
    let failed = |problem: String| Error::Certificate {
        path: files.certificate.clone(),
        problem,
    };
    let made = rcgen::generate_simple_self_signed(names.to_vec());
    let made = made.map_err(|error| failed(error.to_string()))?;
    let write = |path: &Path, text: &str, mode| -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    // The key first: a certificate without its key would be in the way of the next start.
    let key = made.key_pair.serialize_pem();
    write(&files.key, &key, 0o600).map_err(|error| failed(error.to_string()))?;
    write(&files.certificate, &made.cert.pem(), 0o644).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn files(directory: &Path) -> TlsFiles {
        TlsFiles {
            certificate: directory.join("api.crt"),
            key: directory.join("api.key"),
            make_for: Some(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
        }
    }

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let first = load(&files).unwrap();
        assert!(first.fingerprint.starts_with("sha256:") && first.fingerprint.len() == 71);
        assert_eq!(fs::metadata(&files.key).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load(&files).unwrap().fingerprint, first.fingerprint);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        load(&files).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load(&files).unwrap_err().to_string();
        assert!(
            error.contains("0644") && error.contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let own = files(directory.path());
        load(&own).unwrap();
        let other = directory.path().join("other");
        fs::create_dir(&other).unwrap();
        let others = files(&other);
        load(&others).unwrap();
        let mixed = TlsFiles {
            key: others.key,
            ..own
        };
        let said = load(&mixed).unwrap_err().to_string();
        for part in ["api.crt", "other/api.key", "not its own"] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn missing_swapped_and_damaged_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        load(&files).unwrap();
        let said = |files: &TlsFiles| load(files).unwrap_err().to_string();
        let swapped = TlsFiles {
            certificate: files.key.clone(),
            ..files.clone()
        };
        assert!(said(&swapped).contains("api.key"));
        fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        assert!(said(&files).contains("api.crt"));
        // Half of the pair is not made anew: somebody lost the other half.
        fs::remove_file(&files.key).unwrap();
        assert!(said(&files).contains("api.key"));
    }
}
