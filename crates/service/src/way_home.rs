//! The way home of a node that is not in touch with its leader: whom it asks for the members of today.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use types::{JoinReply, JoinRequest, MemberList, NodeId, SignedMemberList, codec};

use crate::handle::Handle;

/// Time between two looks for a leader: several elections.
const LOOK_FOR_LEADER: Duration = Duration::from_secs(2);
/// Looks for a leader in vain before strangers are asked too: longer than a start, an election or a cable takes.
const PATIENT_LOOKS: u32 = 3;
/// Strangers of the local network that are asked for the member list in one round: anyone can claim to be many.
const MAX_UNKNOWN_ASKED: usize = 32;
/// Members asked at the same time: most of them may be switched off, and each takes its time.
const ASKED_AT_ONCE: usize = 16;
/// Largest answer: a signed list of 200 members takes about 200 KiB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// As long as no leader is in touch, asks the known members for a newer list: the addresses known here may be of
/// yesterday, while another member knows those of today.
pub async fn look_for_leader(handle: &Handle) -> std::convert::Infallible {
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
/// speak as a member is cut off before it hears the answer. Those that answer as members stay members meanwhile: cut off,
/// they would take it for a refusal and do the same, and a group without a leader would tear itself apart.
async fn ask_for_home(
    handle: &Handle,
    list: &MemberList,
    ask_strangers: bool,
) -> Option<(SignedMemberList, Option<String>)> {
    let network = handle.network();
    if !handle.was_refused_lately() {
        return newer_members(handle, list, ask_strangers).await;
    }
    let all: Vec<_> = list
        .members
        .iter()
        .map(|member| {
            let facts = &member.facts;
            (
                member.node.clone(),
                facts.control_addresses.clone(),
                facts.bulk_addresses.clone(),
            )
        })
        .collect();
    let peers = network.peers();
    let is_up = |node: &NodeId| {
        peers
            .iter()
            .any(|peer| peer.connected && peer.node == *node)
    };
    let up = all.iter().filter(|(node, ..)| is_up(node)).cloned();
    network.set_members(list.version, up.collect()).await;
    let answer = newer_members(handle, list, ask_strangers).await;
    network.set_members(list.version, all).await;
    answer
}

fn reaches_leader(handle: &Handle) -> bool {
    let peers = handle.network().peers();
    handle.leader().is_some_and(|leader| {
        let connected = |peer: &network::PeerStatus| peer.connected && peer.node == leader;
        leader == *handle.node_id() || peers.iter().any(connected)
    })
}

/// Asks known members for the newest list, then whoever mDNS sees; for a node that was away while things changed, even
/// while all that it knew were replaced. Only a list that the cluster signed counts, so anyone may be asked.
/// A worker asks the replicas alone at first, with which it keeps links: others only when these do not help.
async fn newer_members(
    handle: &Handle,
    known: &MemberList,
    ask_strangers: bool,
) -> Option<(SignedMemberList, Option<String>)> {
    let (network, pinned) = (handle.network(), known.cluster);
    let replicas = handle.known_replicas(known);
    let ask_all = ask_strangers || handle.is_replica() || replicas.is_empty();
    let request = Bytes::from(codec::encode(&JoinRequest::Members));
    // First those that are connected at this moment, because they dialled.
    let knocks = network.knocks().into_iter();
    let mut asked: Vec<_> = knocks.map(|node| vec![format!("/p2p/{node}")]).collect();
    let others = known.members.iter();
    let others = others
        .filter(|member| member.node != *network.node_id())
        .filter(|member| ask_all || replicas.contains(&member.node));
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
