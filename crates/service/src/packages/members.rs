//! What the other members have of a project.

use std::time::Duration;

use futures::StreamExt as _;
use types::NodeId;

use super::{KeptPackage, sha256_of};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{PeerMessage, PeerReply};

/// How long a member may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(3);
/// Members that are asked at the same time.
const ASKED_AT_ONCE: usize = 16;

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// Members that this node has a link with: it costs nothing.
    Linked,
    /// The others, which are connected with for it.
    Others,
}

impl Handle {
    /// What this node and those that it is linked with have of a project.
    pub(super) async fn kept_near(&self, project: &str) -> Vec<(NodeId, KeptPackage)> {
        let own = self.answer_packages(project).await;
        let own = own.into_iter().map(|one| (self.node_id().clone(), one));
        let mut all: Vec<_> = own.collect();
        all.extend(self.kept_by(project, Whom::Linked).await);
        all
    }

    pub(super) async fn kept_by(&self, project: &str, whom: Whom) -> Vec<(NodeId, KeptPackage)> {
        let peers = self.inner.network.peers();
        let asked = peers
            .into_iter()
            .filter(|peer| peer.connected == (whom == Whom::Linked));
        let asked = asked.map(|peer| async move {
            let message = PeerMessage::Packages(project.to_owned());
            match self.ask(&peer.node, &message, PATIENCE).await {
                Ok(PeerReply::Packages(kept)) => (peer.node, kept),
                Ok(_) | Err(_) => (peer.node, Vec::new()), // it is not there: it has nothing
            }
        });
        let asked: Vec<_> = asked.collect();
        let told = futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        let told: Vec<_> = told.collect().await;
        told.into_iter()
            .flat_map(|(node, kept)| kept.into_iter().map(move |one| (node.clone(), one)))
            .collect()
    }

    /// A file from one of these members that fits; none if none has it.
    pub(super) async fn take_kept(
        &self,
        project: &str,
        whom: Whom,
        fits: impl Fn(&KeptPackage) -> bool,
    ) -> Option<KeptPackage> {
        for (node, package) in self.kept_by(project, whom).await {
            if !fits(&package) {
                continue;
            }
            let filename = package.filename.clone();
            match self.fetch_kept(&node, package).await {
                Ok(package) => return Some(package),
                Err(error) => {
                    tracing::warn!(node_id = %node, filename, %error, "package not taken from a member");
                }
            }
        }
        None
    }

    async fn fetch_kept(
        &self,
        node: &NodeId,
        package: KeptPackage,
    ) -> Result<KeptPackage, ServiceError> {
        self.fetch_blobs(&[package.blob], std::slice::from_ref(node))
            .await?;
        let path = self.blob_store().path(&package.blob);
        if sha256_of(path).await? != package.sha256 {
            let message = format!("{} of {node} is not what it says", package.filename);
            return Err(ServiceError::new(ErrorKind::Invalid, "wrong-hash", message));
        }
        self.keep(package).await
    }
}
