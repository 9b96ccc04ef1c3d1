//! Doors for the fuzz targets: each takes bytes as a disk or a replica could give them. Only `cargo fuzz` builds this.

use std::path::PathBuf;

use types::codec;

use crate::wire::{Request, Response};

/// Rows of the stored log, its marks and its records.
pub fn stored_log(bytes: &[u8]) {
    crate::log_store::fuzz(bytes);
}

/// A snapshot file.
pub fn snapshot(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("muster-fuzz-{}.snap", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary directory takes a file");
    crate::machine::fuzz_snapshot(path);
}

/// An archive file.
pub fn archive(bytes: &[u8]) {
    crate::archives::fuzz(PathBuf::from("fuzz.archive"), bytes);
}

/// A request or an answer of another replica: what decodes must encode to the same.
pub fn replica_message(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        let again = request.encode();
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
    }
    if let Ok(response) = Response::decode(bytes) {
        let again = response.encode();
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
    }
}

/// The envelope around it, which is read first.
pub fn envelope(bytes: &[u8]) {
    crate::stamped::fuzz(bytes);
}

/// The files that say which opening of a store this is, and which others were seen.
pub fn generations(bytes: &[u8]) {
    crate::generation::fuzz(bytes);
}
