//! Doors for the fuzz targets: each takes bytes as a stranger or a member could send them. Only `cargo fuzz` builds this.

use types::{ClusterId, JoinReply, JoinRequest, SignedMemberList, codec};

use crate::frame::FrameReader;
use crate::{MAX_JOIN_BYTES, MAX_RAFT_FRAME_BYTES, open_member_list, verify, wire};

/// The frames of a stream, of requests and of strangers.
pub fn frames(bytes: &[u8]) {
    let mut reader = FrameReader::new(bytes, MAX_RAFT_FRAME_BYTES);
    let all = async {
        let mut read = 0;
        while let Ok(Some(frame)) = reader.next().await {
            read += 1;
            drop(frame.into_outcome());
        }
        read
    };
    assert!(futures::executor::block_on(all) <= bytes.len());
    futures::executor::block_on(wire::fuzz(bytes));
}

/// What a stranger says at the gate, and what a member answers.
pub fn join(bytes: &[u8]) {
    if let Ok(request) = codec::decode::<JoinRequest>(bytes, MAX_JOIN_BYTES) {
        let again = codec::encode(&request);
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
    }
    drop(codec::decode::<JoinReply>(bytes, codec::MAX_MESSAGE_BYTES));
    if let Ok(signed) = codec::decode::<SignedMemberList>(bytes, codec::MAX_MESSAGE_BYTES) {
        let pinned = ClusterId(*blake3::hash(&signed.cluster_public_key).as_bytes());
        if let Ok(list) = open_member_list(&signed, pinned) {
            assert_eq!(list.cluster, pinned);
        }
        for node in String::from_utf8_lossy(bytes)
            .split('\n')
            .filter_map(|text| text.parse().ok())
        {
            assert!(!verify(&node, b"never signed", &signed.signature));
        }
    }
}
