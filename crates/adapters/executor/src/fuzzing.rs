//! Doors for the fuzz targets: bytes as a job, a holder, the node or a disk could give them. Only `cargo fuzz` builds this.

use diagnosis::{Course, Exit, Facts, LossWatch, Memory, Request, Said, diagnose};
use types::{ConsoleStream, DurationMs, SourceTree, codec};

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
    explain_end(output);
}

/// Why a job ended that said this last.
fn explain_end(output: &[u8]) {
    let said = [Said {
        stream: ConsoleStream::Stderr,
        before_end: DurationMs(0),
        bytes: output.to_vec(),
    }];
    let cause = diagnose(&Facts {
        command: &[],
        exit: Exit::Code(1),
        ran: DurationMs(0),
        launch: None,
        failure: None,
        stop: None,
        memory: Memory::default(),
        refused_forks: None,
        max_processes: 0,
        disk: None,
        console: &said,
        course: &Course::default(),
        losses: &LossWatch::default(),
        request: Request::default(),
    });
    assert!(!cause.evidence.is_empty());
    let is_clean = |line: &String| !line.chars().any(char::is_control);
    assert!(cause.evidence.iter().all(is_clean), "{cause:?}");
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
