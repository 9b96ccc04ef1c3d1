use super::*;
use crate::test_node::{Answer, Seen, TestNode};

fn in_memory(bytes: Vec<u8>) -> Blob {
    Blob {
        hash: BlobHash::of(&bytes),
        bytes: bytes.len() as u64,
        content: Content::Memory(bytes.into()),
    }
}

/// Answers that it lacks everything.
fn lacks_all(seen: &Seen) -> Answer {
    match seen.line.as_str() {
        "POST /api/v1/blobs/missing" => Answer::new(200, seen.body.clone()),
        _ => Answer::new(204, ""),
    }
}

fn frames(mut body: &[u8]) -> Vec<(BlobHash, Vec<u8>)> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let hash = BlobHash(body[..32].try_into().unwrap());
        let length = u32::from_le_bytes(body[32..36].try_into().unwrap()) as usize;
        frames.push((hash, body[36..36 + length].to_vec()));
        body = &body[36 + length..];
    }
    frames
}

#[tokio::test]
async fn small_blobs_travel_together_and_large_ones_alone() {
    let directory = tempfile::tempdir().unwrap();
    let large_path = directory.path().join("large");
    let large_bytes = vec![7; 3 << 20];
    std::fs::write(&large_path, &large_bytes).unwrap();
    let large = Blob {
        hash: BlobHash::of(&large_bytes),
        bytes: large_bytes.len() as u64,
        content: Content::File(large_path),
    };
    let mut blobs = vec![in_memory(Vec::new()), large.clone()];
    blobs.extend((1..=10_u8).map(|n| in_memory(vec![n; 1 << 20])));
    blobs.push(in_memory(vec![1; 1 << 20])); // the same again: sent once

    let node = TestNode::serve(|_, seen| lacks_all(seen));
    upload(&blobs, &node.client(), &Terminal::unseen())
        .await
        .unwrap();

    let seen = node.seen();
    let batches: Vec<&Seen> = seen
        .iter()
        .filter(|seen| seen.line.ends_with("/batch"))
        .collect();
    assert_eq!(batches.len(), 2);
    assert!(batches.iter().all(|batch| batch.body.len() <= 8 << 20));
    let sent: Vec<_> = batches
        .iter()
        .flat_map(|batch| frames(&batch.body))
        .collect();
    assert_eq!(sent.len(), 11);
    assert!(
        sent.iter()
            .all(|(hash, bytes)| *hash == BlobHash::of(bytes))
    );
    let put = seen.last().unwrap();
    assert_eq!(put.line, format!("PUT /api/v1/blobs/{}", large.hash));
    assert_eq!(put.header("content-length"), Some("3145728"));
    assert_eq!(put.body, large_bytes);
}

#[tokio::test]
async fn what_the_node_has_is_not_sent() {
    let node = TestNode::serve(|_, _| Answer::new(200, r#"{"hashes":[]}"#));
    let blobs = [in_memory(vec![1, 2, 3])];
    upload(&blobs, &node.client(), &Terminal::unseen())
        .await
        .unwrap();
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn a_file_that_changed_since_its_capture_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for size in [10, 2 << 20] {
        std::fs::write(&path, vec![1; size]).unwrap();
        let blob = Blob {
            hash: BlobHash::of(&vec![0; size]),
            bytes: size as u64,
            content: Content::File(path.clone()),
        };
        let node = TestNode::serve(|_, seen| match seen.line.starts_with("PUT") {
            true => Answer::error(400, "the bytes have another hash"),
            false => lacks_all(seen),
        });
        let done = upload(&[blob], &node.client(), &Terminal::unseen()).await;
        assert!(matches!(done, Err(Error::Changed { .. })), "{done:?}");
    }
}

#[tokio::test]
async fn a_file_that_shrank_fails_instead_of_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let blob = Blob {
        hash: BlobHash::default(),
        bytes: 2 << 20,
        content: Content::File(path),
    };
    let node = TestNode::serve(|_, seen| lacks_all(seen));
    let done = upload(&[blob], &node.client(), &Terminal::unseen()).await;
    assert!(matches!(done, Err(Error::Changed { .. })), "{done:?}");
}
