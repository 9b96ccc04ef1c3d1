//! Bytes that are stored or sent never change: a failure here is a change of format, to be made as a
//! new variant instead.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use types::{LogIndex, codec};

use crate::generation::{self, Stamp};
use crate::log_store::golden_records;
use crate::raft_types::{Proposal, RaftEntry, RaftLogId, RaftVote, Replica};
use crate::stamped::Envelope;
use crate::wire::{Request, Response};

const STAMP: Stamp = Stamp { number: 3, mark: 9 };

fn vote() -> RaftVote {
    RaftVote::new(3, Replica("abc".parse().unwrap()))
}

fn entry() -> RaftEntry {
    RaftEntry {
        log_id: RaftLogId::new_term_index(2, 7),
        payload: EntryPayload::Normal(Proposal(Bytes::from_static(b"data"))),
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

#[test]
fn stored_and_sent_bytes_are_those_of_version_1() {
    let append = Request::Append(AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(RaftLogId::new_term_index(1, 6)),
        entries: vec![entry()],
        leader_commit: None,
    });
    let found: Vec<_> = golden_records(vote(), &entry())
        .into_iter()
        .chain(generation::golden_records("abc".parse().unwrap()))
        .chain([
            ("append", append.encode().to_vec()),
            (
                "pre-vote",
                Request::PreVote(VoteRequest::new(vote(), None))
                    .encode()
                    .to_vec(),
            ),
            ("read index", Request::ReadIndex.encode().to_vec()),
            (
                "appended",
                Response::Append(AppendEntriesResponse::Success)
                    .encode()
                    .to_vec(),
            ),
            ("index", Response::ReadIndex(LogIndex(9)).encode().to_vec()),
            ("failed", Response::Failed("why".into()).encode().to_vec()),
            ("fitness", Request::Fitness.encode().to_vec()),
            (
                "state hash",
                Request::StateHash { index: 9 }.encode().to_vec(),
            ),
            (
                "reverted",
                Request::Reverted {
                    vote: vote(),
                    acknowledged: 9,
                }
                .encode()
                .to_vec(),
            ),
            (
                "fit",
                Response::Fitness {
                    roomy: true,
                    sync_micros: 9,
                }
                .encode()
                .to_vec(),
            ),
            ("hash", Response::StateHash(Some([5; 32])).encode().to_vec()),
            ("stopping", Response::Stopping.encode().to_vec()),
            (
                "envelope",
                codec::encode(&Envelope::V1 {
                    stamp: STAMP,
                    message: Bytes::from_static(b"data"),
                }),
            ),
            (
                "stale",
                codec::encode(&Envelope::Stale {
                    stamp: STAMP,
                    refused: STAMP,
                    seen: STAMP,
                }),
            ),
        ])
        .map(|(name, bytes)| format!("{name} {} {}", bytes.len(), hash(&bytes)))
        .collect();
    assert_eq!(found, EXPECTED);
}

const EXPECTED: [&str; 21] = [
    "entry 73 67ddd40551c8e19d",
    "owner 20 ecb45894f940159d",
    "vote 38 f81530160d201bd9",
    "committed 25 f9dce578c9a9e9fc",
    "purged 57 b97be393e99dbb15",
    "generation 25 8653367b257d4390",
    "seen 44 c33579f07db8334d",
    "append 88 a857b77877052055",
    "pre-vote 32 7f9d7a38d969373b",
    "read index 9 ea9c27e2f383b618",
    "appended 13 ca165d26a15907fc",
    "index 17 bf5061602dfe7de9",
    "failed 20 2c687e16fde04358",
    "fitness 9 bfe634d333981c8c",
    "state hash 17 38799c340efcf2fc",
    "reverted 38 8b6e9fcd0cf19b71",
    "fit 18 0853496237fca9ff",
    "hash 42 df602272e005fbe3",
    "stopping 9 71276d091e2e0a90",
    "envelope 37 a6e247a2e21bc527",
    "stale 57 4bd62822e6b5c907",
];
