//! How a node comes to belong to a cluster: it makes the first one, joins by token, or finds its own again.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::Instant;
use types::{
    ClusterId, JoinProof, JoinReply, JoinRequest, JoinTokenText, MemberList, NodeFacts, NodeId,
    SignedMemberList, TokenId, codec, rejoin_bytes,
};

use crate::data_directory::DataDirectory;

/// Time for one member to answer a join request: an election may be under way.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);
/// Time for the whole joining, over all addresses.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a first node listens for others on the local network.
const LISTEN_FIRST: Duration = Duration::from_secs(3);
/// Time between two looks for a leader: several elections.
const LOOK_FOR_LEADER: Duration = Duration::from_secs(2);
/// Looks for a leader in vain before strangers are asked too: longer than a start, an election or a cable takes.
const PATIENT_LOOKS: u32 = 3;
/// Strangers of the local network that are asked for the member list in one round: anyone can claim to be many.
const MAX_UNKNOWN_ASKED: usize = 32;
/// Members asked at the same time: most of them may be switched off, and each takes its time.
const ASKED_AT_ONCE: usize = 16;
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

/// As long as no leader is in touch, asks the known members for a newer list: the addresses known here may be of
/// yesterday, while another member knows those of today.
pub(crate) async fn look_for_leader(handle: &service::Handle) -> std::convert::Infallible {
    let mut lost_looks = 0;
    loop {
        let known = handle.kept_members().and_then(|signed| {
            codec::decode::<MemberList>(&signed.list, codec::MAX_MESSAGE_BYTES).ok() // Checked before it was kept.
        });
        let lost = !reaches_leader(handle);
        handle.network().listen_for_knocks(lost);
        lost_looks = if lost { lost_looks + 1 } else { 0 };
        let ask_strangers = lost_looks > PATIENT_LOOKS;
        if let Some(list) = known
            && lost
            && let Some((newer, removed)) = ask_for_home(handle, &list, ask_strangers).await
        {
            handle.take_members(newer);
            if let Some(text) = removed {
                handle.note_removed(text);
            }
        }
        tokio::time::sleep(LOOK_FOR_LEADER).await;
    }
}

/// Asks for a newer list. A node that members do not know any more asks as the stranger it is to them: whoever goes on to
/// speak as a member is cut off before it hears the answer.
async fn ask_for_home(
    handle: &service::Handle,
    list: &MemberList,
    ask_strangers: bool,
) -> Option<(SignedMemberList, Option<String>)> {
    let network = handle.network();
    if !handle.was_refused_lately() {
        return newer_members(network, list.cluster, list, ask_strangers).await;
    }
    network.set_members(list.version, Vec::new()).await;
    let answer = newer_members(network, list.cluster, list, ask_strangers).await;
    let table = list.members.iter().map(|member| {
        let facts = &member.facts;
        (
            member.node.clone(),
            facts.control_addresses.clone(),
            facts.bulk_addresses.clone(),
        )
    });
    network.set_members(list.version, table.collect()).await;
    answer
}

fn reaches_leader(handle: &service::Handle) -> bool {
    let peers = handle.network().peers();
    handle.leader().is_some_and(|leader| {
        let connected = |peer: &network::PeerStatus| peer.connected && peer.node == leader;
        leader == *handle.node_id() || peers.iter().any(connected)
    })
}

/// Asks known members for the newest list, then whoever mDNS sees; for a node that was away while things changed, even
/// while all that it knew were replaced. Only a list that the cluster signed counts, so anyone may be asked.
pub(crate) async fn newer_members(
    network: &network::Handle,
    pinned: ClusterId,
    known: &MemberList,
    ask_strangers: bool,
) -> Option<(SignedMemberList, Option<String>)> {
    let request = Bytes::from(codec::encode(&JoinRequest::Members));
    // First those that are connected at this moment, because they dialled.
    let knocks = network.knocks().into_iter();
    let mut asked: Vec<_> = knocks.map(|node| vec![format!("/p2p/{node}")]).collect();
    let others = known.members.iter();
    let others = others.filter(|member| member.node != *network.node_id());
    asked.extend(others.map(|member| member.facts.control_addresses.clone()));
    let is_known =
        |seen: &network::Discovered| known.members.iter().any(|member| member.node == seen.node);
    let seen = network.discovered().into_iter();
    let unknown = seen
        .filter(|seen| ask_strangers && !is_known(seen))
        .take(MAX_UNKNOWN_ASKED);
    asked.extend(unknown.map(|seen| seen.addresses));
    let ask = |addresses: Vec<String>| {
        let request = request.clone();
        async move {
            let patience = Duration::from_secs(2);
            network.join_call(&addresses, request, patience).await
        }
    };
    let asking = futures::stream::iter(asked).map(ask);
    let mut answers = std::pin::pin!(asking.buffer_unordered(ASKED_AT_ONCE));
    while let Some(answer) = answers.next().await {
        let Ok((_, answer)) = answer else { continue };
        let (members, removed) = match codec::decode(&answer, MAX_ANSWER_BYTES) {
            Ok(JoinReply::Admitted { members }) => (members, None),
            Ok(JoinReply::Removed { members, message }) => (members, Some(message)),
            Ok(JoinReply::Refused { .. }) | Err(_) => continue,
        };
        let Ok(list) = network::open_member_list(&members, pinned) else {
            continue;
        };
        let newer = (list.incarnation, list.version) > (known.incarnation, known.version);
        let own = |member: &types::Member| member.node == *network.node_id();
        // That it was removed is proven by the cluster's signature under a list without it, never by a word.
        if newer && removed.is_some() != list.members.iter().any(own) {
            return Some((members, removed));
        }
    }
    None
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
