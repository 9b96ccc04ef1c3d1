//! Descriptions of environments: kept like the code that needs them, and read by the node that builds them.

use std::time::Duration;

use types::{BlobHash, Environment, EnvironmentRef, EnvironmentSpec, IdError, codec};

use crate::blobs::blob_error;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, now};
use crate::submit::invalid;
use crate::view::EnvironmentView;

impl Handle {
    /// A description of an environment, from this node or from another.
    ///
    /// # Errors
    /// No reachable node has it, or it is damaged.
    pub async fn environment_spec(&self, hash: BlobHash) -> Result<EnvironmentSpec, ServiceError> {
        self.fetch_blobs(&[hash], &[]).await?;
        let read = self
            .inner
            .blobs
            .get_bytes(&hash, EnvironmentSpec::MAX_BYTES);
        let bytes = read.await.map_err(|error| blob_error(&error))?;
        let bytes = bytes.ok_or_else(|| {
            ServiceError::new(
                ErrorKind::NotFound,
                "unknown-blob",
                format!("no node has the environment {hash}"),
            )
        })?;
        decode(hash, &bytes)
    }

    /// Makes sure that the description of an environment is durable here and on another storage node (invariant 16).
    pub(crate) async fn secure_environment(
        &self,
        hash: BlobHash,
        patience: Duration,
    ) -> Result<(), ServiceError> {
        self.environment_spec(hash).await?;
        // From now on until the state names it nothing may collect it.
        let renewed = self.inner.blobs.renew(&hash, now());
        renewed.map_err(|error| blob_error(&error))?;
        let hashes = [hash];
        let work = self.copy_to_storage(&hash, &hashes);
        tokio::time::timeout(patience, work).await.map_err(|_elapsed| {
            ServiceError::new(ErrorKind::Unavailable, "slow-copy", format!("the description of the environment was not copied to another machine within {} s", patience.as_secs()))
                .hint("check the network between the machines and submit again")
        })??;
        Ok(())
    }
}

/// What a submission says about packages.
pub(crate) fn environment_of(view: Option<EnvironmentView>) -> Result<Environment, ServiceError> {
    let Some(view) = view else {
        return Ok(Environment::Host);
    };
    if view.summary.len() > EnvironmentRef::MAX_SUMMARY_BYTES {
        return Err(invalid(&format!(
            "the summary of an environment has at most {} bytes",
            EnvironmentRef::MAX_SUMMARY_BYTES
        )));
    }
    Ok(Environment::Locked(EnvironmentRef {
        spec: parse_spec(&view.spec)?,
        summary: view.summary,
    }))
}

/// The other way round.
pub(crate) fn environment_view(environment: &Environment) -> Option<EnvironmentView> {
    match environment {
        Environment::Host => None,
        Environment::Locked(named) => Some(EnvironmentView {
            spec: named.spec.to_string(),
            summary: named.summary.clone(),
        }),
    }
}

pub(crate) fn parse_spec(hash: &str) -> Result<BlobHash, ServiceError> {
    hash.parse()
        .map_err(|error: IdError| invalid(&error.to_string()))
}

/// Whoever sends a description may have made it himself: what the command line makes is within the limits.
fn decode(hash: BlobHash, bytes: &[u8]) -> Result<EnvironmentSpec, ServiceError> {
    let bad = |why: String| {
        let message = format!("blob {hash} is no description of an environment: {why}");
        ServiceError::new(ErrorKind::Invalid, "bad-environment", message)
    };
    let spec: EnvironmentSpec =
        codec::decode(bytes, codec::MAX_MESSAGE_BYTES).map_err(|error| bad(error.to_string()))?;
    spec.validate().map_err(|error| bad(error.to_string()))?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use types::{EnvironmentFile, EnvironmentKind, EnvironmentSpecV1};

    use super::*;

    #[test]
    fn what_is_no_description_or_leaves_its_directory_is_refused() {
        let spec = |path: &str| {
            codec::encode(&EnvironmentSpec::V1(EnvironmentSpecV1 {
                kind: EnvironmentKind::Requirements,
                python: String::new(),
                files: vec![EnvironmentFile {
                    path: path.to_owned(),
                    content: bytes::Bytes::new(),
                }],
                requirements: Vec::new(),
                packages: Vec::new(),
                import_paths: Vec::new(),
            }))
        };
        let name = BlobHash::of(b"an environment");
        assert!(decode(name, &spec("requirements.txt")).is_ok());
        for bytes in [spec("../../node.key"), b"no description".to_vec()] {
            let error = decode(name, &bytes).unwrap_err();
            assert_eq!(
                (error.kind, error.code.as_str()),
                (ErrorKind::Invalid, "bad-environment")
            );
        }
    }

    #[test]
    fn a_summary_that_is_a_novel_is_refused() {
        let view = |length: usize| EnvironmentView {
            spec: BlobHash::of(b"an environment").to_string(),
            summary: "x".repeat(length),
        };
        assert!(environment_of(Some(view(256))).is_ok());
        assert!(environment_of(Some(view(257))).is_err());
        assert_eq!(environment_of(None).unwrap(), Environment::Host);
    }
}
