//! A door for the fuzz targets: bytes as a client could send them. Only `cargo fuzz` builds this.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use service::view::{DrainRequest, PinRequest, RemoveNodeRequest};

use crate::wire::{
    BlobHashes, CreateJoinTokenRequest, CreateQueueRequest, CreateUserTokenRequest, MoveRequest,
    SubmitRequest,
};

/// A body of each route, and the names in its address.
pub fn body(bytes: &[u8]) {
    fn read<T: DeserializeOwned>(bytes: &[u8]) {
        drop(serde_json::from_slice::<T>(bytes));
    }
    if let Ok(request) = serde_json::from_slice::<SubmitRequest>(bytes) {
        service::fuzzing::submit(request);
    }
    read::<CreateQueueRequest>(bytes);
    read::<CreateJoinTokenRequest>(bytes);
    read::<CreateUserTokenRequest>(bytes);
    read::<MoveRequest>(bytes);
    read::<DrainRequest>(bytes);
    read::<PinRequest>(bytes);
    read::<RemoveNodeRequest>(bytes);
    read::<BlobHashes>(bytes);
    if let Ok(blobs) = crate::blob_batch::decode(Bytes::copy_from_slice(bytes)) {
        let total: usize = blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= bytes.len());
    }
    crate::log_stream::fuzz(&String::from_utf8_lossy(bytes));
}
