//! How a node comes to belong to a cluster: it makes the first one, joins by token, or finds its own again.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use tokio::time::Instant;
use types::{
    ClusterId, JoinProof, JoinReply, JoinRequest, JoinTokenText, NodeFacts, NodeId,
    SignedMemberList, TokenId, codec, rejoin_bytes,
};

use crate::data_directory::DataDirectory;

/// Time for one member to answer a join request: an election may be under way.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);
/// Time for the whole joining, over all addresses.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a first node listens for others on the local network.
const LISTEN_FIRST: Duration = Duration::from_secs(3);
/// Identities of this machine that were put aside and are told of when it joins again.
const MAX_EARLIER_IDENTITIES: usize = 8;
/// Largest answer of a join server: a signed list of 200 members takes about 200 KiB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Joins by token and keeps what was learned. Returns the signed list.
pub(crate) async fn join(
    network: &network::Handle,
    directory: &DataDirectory,
    token: &JoinTokenText,
    facts: &NodeFacts,
) -> anyhow::Result<SignedMemberList> {
    let deadline = Instant::now() + JOIN_PATIENCE;
    let earlier = earlier_identities(directory)?;
    let mut problems = Vec::new();
    loop {
        for (server, addresses) in servers(token, &network.discovered()) {
            let proof = token.prove(network.node_id(), &server, rand::random());
            let request = request(
                network.node_id(),
                token.token.clone(),
                proof,
                facts,
                &earlier,
            );
            let request = Bytes::from(codec::encode(&request));
            match network.join_call(&addresses, request, JOIN_DEADLINE).await {
                Ok((_, answer)) => match codec::decode(&answer, MAX_ANSWER_BYTES)
                    .context("the member's answer is unreadable")?
                {
                    JoinReply::Admitted { members } => {
                        return admitted(directory, token.cluster, members);
                    }
                    JoinReply::Removed { message, .. } => bail!("not admitted: {message}"),
                    JoinReply::Refused { code, message } if is_final(&code) => {
                        bail!("not admitted ({code}): {message}");
                    }
                    JoinReply::Refused { code, message } => {
                        problems.push(format!("{code}: {message}"))
                    }
                },
                Err(error) => problems.push(error.to_string()),
            }
        }
        if Instant::now() >= deadline {
            let last = problems
                .pop()
                .unwrap_or_else(|| "the token has no addresses".to_owned());
            return Err(anyhow!(
                "no member of the cluster could be reached: {last}\nhint: is muster running there, is the port open, and is this token of the right cluster?"
            ));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The request of a machine, signed by those that it was before, so that they are taken out in the same change.
fn request(
    own: &NodeId,
    token: TokenId,
    proof: JoinProof,
    facts: &NodeFacts,
    earlier: &[network::Identity],
) -> JoinRequest {
    let facts = facts.clone();
    if earlier.is_empty() {
        return JoinRequest::V1 {
            token,
            proof,
            facts,
        };
    }
    let sign = |old: &network::Identity| {
        let bytes = rejoin_bytes(&token, &proof, old.node_id(), own);
        (old.node_id().clone(), old.sign(&bytes))
    };
    let was = earlier.iter().map(sign).collect();
    JoinRequest::Again {
        token,
        proof,
        facts,
        was,
    }
}

/// The identities that were put aside here, the newest first; a key that cannot be read any more is left to `muster node
/// remove`.
fn earlier_identities(directory: &DataDirectory) -> anyhow::Result<Vec<network::Identity>> {
    let mut keys = directory.keys_put_aside()?;
    keys.reverse();
    keys.truncate(MAX_EARLIER_IDENTITIES);
    let load = |path: &std::path::PathBuf| match network::Identity::load_or_create(path) {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "earlier identity not read");
            None
        }
    };
    Ok(keys.iter().filter_map(load).collect())
}

fn is_final(code: &str) -> bool {
    matches!(
        code,
        "removed"
            | "unknown-token"
            | "token-expired"
            | "token-used-up"
            | "bad-proof"
            | "unreadable"
    )
}

fn admitted(
    directory: &DataDirectory,
    pinned: ClusterId,
    members: SignedMemberList,
) -> anyhow::Result<SignedMemberList> {
    network::open_member_list(&members, pinned)
        .context("the member list is not signed by the cluster of this token")?;
    crate::data_directory::write_durably(&directory.path("members"), &codec::encode(&members))
        .context("keep the member list")?;
    directory.set_cluster(pinned)?;
    Ok(members)
}

/// The token's members with their addresses, in its order; those that mDNS saw get their addresses of today.
fn servers(
    token: &JoinTokenText,
    discovered: &[network::Discovered],
) -> Vec<(NodeId, Vec<String>)> {
    let mut servers: Vec<(NodeId, Vec<String>)> = Vec::new();
    for address in &token.addresses {
        let Some(peer) = address
            .rsplit_once("/p2p/")
            .and_then(|(_, peer)| peer.parse::<NodeId>().ok())
        else {
            continue;
        };
        match servers.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, addresses)) => addresses.push(address.clone()),
            None => servers.push((peer, vec![address.clone()])),
        }
    }
    for (server, addresses) in &mut servers {
        let seen = discovered.iter().find(|seen| seen.node == *server);
        addresses.extend(seen.into_iter().flat_map(|seen| seen.addresses.clone()));
    }
    servers
}

/// Listens on the local network before a cluster is made; an error says how to join the one that is there.
pub(crate) async fn listen_first(network: &network::Handle) -> anyhow::Result<()> {
    tokio::time::sleep(LISTEN_FIRST).await;
    let discovered = network.discovered();
    for peer in &discovered {
        let request = Bytes::from(codec::encode(&JoinRequest::Members));
        if network
            .join_call(&peer.addresses, request, Duration::from_secs(2))
            .await
            .is_ok()
        {
            bail!(
                "there is a muster cluster on this network (node {}): on one of its machines run `muster token new`, then here `muster up --join <token>`\nhint: `muster up --new` makes a separate cluster",
                peer.node
            );
        }
    }
    Ok(())
}

/// Refuses a token of another cluster for a directory that belongs to one.
pub(crate) fn check_cluster(
    directory: &DataDirectory,
    root: &str,
    token: Option<&JoinTokenText>,
) -> anyhow::Result<Option<ClusterId>> {
    let known = directory.cluster()?;
    if let (Some(known), Some(token)) = (known, token)
        && known != token.cluster
    {
        if directory.give_up_unused_cluster()? {
            return Ok(None);
        }
        bail!(
            "the data directory {root} belongs to cluster {}, the token to cluster {}: give this node another directory with --data-dir, or remove the old one if that cluster is no longer needed",
            &known.to_string()[..12],
            &token.cluster.to_string()[..12]
        );
    }
    Ok(known)
}
