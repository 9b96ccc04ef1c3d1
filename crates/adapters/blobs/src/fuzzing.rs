//! Doors for the fuzz targets: bytes as a peer or a disk could give them. Only `cargo fuzz` builds this.

use crate::protocol::{Reply, Request, read_frame};

/// The frames of a transfer, to either side; whatever a frame claims, no more is read than came.
pub fn transfer(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime without threads").block_on(async {
        let mut reader = bytes;
        while let Ok(Some(_request)) = read_frame::<_, Request>(&mut reader).await {}
        let mut reader = bytes;
        while let Ok(Some(_reply)) = read_frame::<_, Reply>(&mut reader).await {}
    });
}

/// The stored index of the parts of a large blob.
pub fn chunk_index(bytes: &[u8]) {
    crate::chunks::fuzz(bytes);
}
