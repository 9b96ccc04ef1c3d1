//! Doors for the fuzz targets: bytes as a job, a holder, the node or a disk could give them. Only `cargo fuzz` builds this.

use types::{SourceTree, codec};

use crate::protocol::{NoticeReader, take_request};

/// Both directions between a node and a holder.
pub fn holder_messages(bytes: &[u8]) {
    let mut buffer = bytes.to_vec();
    while let Ok(Some(_request)) = take_request(&mut buffer) {}
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime without threads").block_on(async {
        let mut notices = NoticeReader::new(bytes);
        while let Ok(Some(_notice)) = notices.next().await {}
    });
}

/// What a job prints, cut anywhere.
pub fn job_output(bytes: &[u8]) {
    let (cut, output) = bytes
        .split_first()
        .map_or((0, bytes), |(cut, rest)| (usize::from(*cut), rest));
    let whole = crate::hold::fuzz_metrics(&[output]);
    let (head, tail) = output.split_at(cut.min(output.len()));
    assert_eq!(
        whole,
        crate::hold::fuzz_metrics(&[head, tail]),
        "cut at {cut}"
    );
}

/// A file of records, as a disk could return it, and a line of /proc.
pub fn records(bytes: &[u8]) {
    if let Ok((records, used)) = types::decode_frames(bytes) {
        let mut again = Vec::new();
        for record in &records {
            types::encode_frame(record, &mut again);
        }
        assert_eq!(again.len(), used);
    }
    crate::process_tree::fuzz(&String::from_utf8_lossy(bytes));
    crate::process_use::fuzz(&String::from_utf8_lossy(bytes));
    crate::attempt_directory::parse_directory_name(&String::from_utf8_lossy(bytes));
}

/// The files of an attempt's directory besides records.
pub fn stored(bytes: &[u8]) {
    crate::stored::fuzz(bytes);
}

/// A source tree, which a client has made: refused, or laid out without a way out of it.
pub fn source_tree(bytes: &[u8]) {
    if let Ok(tree) = codec::decode::<SourceTree>(bytes, codec::MAX_MESSAGE_BYTES) {
        let again = codec::encode(&tree);
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
        crate::layout::fuzz(tree);
    }
}
