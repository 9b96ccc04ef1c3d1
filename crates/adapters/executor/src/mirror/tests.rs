use super::*;
use types::{
    BlobHash, ConsoleStream, ExperimentId, Incarnation, LogIndex, Record, RecordBody, Timestamp,
    encode_frame,
};

fn token() -> AttemptToken {
    AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(5),
        attempt: 1,
        placed_at: LogIndex(2),
    }
}

fn frames(numbers: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sequence in numbers {
        let body = RecordBody::Console {
            stream: ConsoleStream::Stdout,
            bytes: Bytes::from(format!("line {sequence}\n")),
        };
        let at = Timestamp(sequence);
        encode_frame(&Record { sequence, at, body }, &mut bytes);
    }
    bytes
}

fn chunk(segment: u32, first_sequence: u64, offset: usize, bytes: &[u8]) -> MirrorChunk {
    MirrorChunk {
        segment,
        first_sequence,
        offset: offset as u64,
        bytes: Bytes::copy_from_slice(bytes),
    }
}

fn at(segment: u32, length: usize) -> MirrorPosition {
    MirrorPosition {
        segment,
        length: length as u64,
    }
}

#[tokio::test]
async fn holes_are_refused_and_repeats_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(directory.path()).unwrap();
    let (first, second) = (frames(0..5), frames(5..9));
    let send = |chunk| mirror.append(token(), chunk);
    // A torn piece, a hole, a repeat that overlaps, a segment too early, the rest.
    assert_eq!(send(chunk(0, 0, 3, &first[3..])).await.unwrap(), at(0, 0));
    assert_eq!(send(chunk(0, 0, 0, &first[..30])).await.unwrap(), at(0, 30));
    assert_eq!(
        send(chunk(0, 0, 40, &first[40..])).await.unwrap(),
        at(0, 30)
    );
    assert_eq!(
        send(chunk(0, 0, 10, &first[10..50])).await.unwrap(),
        at(0, 50)
    );
    assert_eq!(send(chunk(1, 5, 0, &second)).await.unwrap(), at(0, 50));
    let end = at(0, first.len());
    assert_eq!(send(chunk(0, 0, 50, &first[50..])).await.unwrap(), end);
    assert_eq!(send(chunk(1, 6, 0, &frames(6..7))).await.unwrap(), end);
    assert_eq!(send(chunk(2, 5, 0, &second)).await.unwrap(), end);
    let end = at(1, second.len());
    assert_eq!(send(chunk(1, 5, 0, &second)).await.unwrap(), end);
    assert_eq!(send(chunk(0, 0, 0, &first)).await.unwrap(), end);
    let again = Mirror::open(directory.path()).unwrap();
    assert_eq!(again.position(token()).await.unwrap(), end);
    assert_eq!(again.attempts().await.unwrap(), [token()]);
    let read = again.read(token(), 3, 1 << 20).await.unwrap();
    assert_eq!(read.frames, [frames(3..5), second].concat());
    assert!(!read.ended);
}

#[tokio::test]
async fn sealing_cuts_the_torn_end_and_refuses_what_comes_late() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(directory.path()).unwrap();
    let bytes = frames(0..3);
    let torn = chunk(0, 0, 0, &bytes[..bytes.len() - 1]);
    mirror.append(token(), torn).await.unwrap();
    let sealed = mirror.seal(token()).await.unwrap();
    assert_eq!(sealed[0].hash, BlobHash::of(&frames(0..2)));
    assert_eq!(sealed[0].summary.end_sequence, 2);
    assert_eq!(mirror.seal(token()).await.unwrap(), sealed);
    let late = mirror.append(token(), chunk(0, 0, 0, &bytes)).await;
    assert!(matches!(late, Err(Error::Sealed { .. })));
    assert!(mirror.read(token(), 2, 100).await.unwrap().ended);
    mirror.remove(token()).await.unwrap();
    assert_eq!(mirror.attempts().await.unwrap(), []);
}

#[tokio::test]
async fn discarding_keeps_the_place_where_the_owner_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(directory.path()).unwrap();
    let (first, second) = (frames(0..5), frames(5..9));
    mirror
        .append(token(), chunk(0, 0, 0, &first))
        .await
        .unwrap();
    mirror
        .append(token(), chunk(1, 5, 0, &second))
        .await
        .unwrap();
    mirror.discard(token(), 7).await.unwrap();
    assert_eq!(mirror.position(token()).await.unwrap(), at(1, second.len()));
    assert_eq!(mirror.seal(token()).await.unwrap()[0].number, 1);
}
