//! Doors for the fuzz targets: what a peer or a client could send. Only `cargo fuzz` builds this.

use types::{SourceTree, codec};

use crate::call::{Reply, Request};
use crate::view::SubmitRequest;
use crate::{BulkMessage, BulkReply, PeerMessage, PeerReply};

/// A message of another node on either plane.
pub fn peer_message(bytes: &[u8]) {
    if let Ok(message) = codec::decode::<PeerMessage>(bytes, codec::MAX_MESSAGE_BYTES) {
        if let PeerMessage::Call(vouched) = &message {
            drop(serde_json::from_slice::<Request>(&vouched.request));
        }
        let again = codec::encode(&message);
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
    }
    drop(codec::decode::<PeerReply>(bytes, codec::MAX_MESSAGE_BYTES));
    drop(codec::decode::<BulkMessage>(
        bytes,
        codec::MAX_MESSAGE_BYTES,
    ));
    drop(codec::decode::<BulkReply>(bytes, codec::MAX_MESSAGE_BYTES));
    drop(serde_json::from_slice::<Request>(bytes));
    drop(serde_json::from_slice::<Reply>(bytes));
}

/// A submission: refused, or a specification that the log can hold and give back.
pub fn submit(request: SubmitRequest) {
    if let Ok(spec) = crate::submit::fuzz(request) {
        let bytes = codec::encode(&spec);
        let again: types::ExperimentSpec =
            codec::decode(&bytes, codec::MAX_MESSAGE_BYTES).expect("what was encoded");
        assert_eq!(again, spec);
    }
}

/// A sweep.
pub fn sweep(text: &str) {
    crate::sweep::fuzz(text);
}

/// A blob that may be a source tree: the files that it names, each once.
pub fn source_tree(bytes: &[u8]) {
    if let Ok(tree) = codec::decode::<SourceTree>(bytes, codec::MAX_MESSAGE_BYTES) {
        let files = crate::blobs::tree_blobs(&tree);
        assert!(files.is_sorted_by(|one, next| one < next));
    }
}
