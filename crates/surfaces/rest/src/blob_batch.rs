//! Many small blobs in one body: frames of 32 bytes hash, little-endian `u32` length, that many bytes.

use bytes::{Buf, Bytes};
use types::BlobHash;

use crate::error::Refusal;

/// Most bytes of a batch: saves round trips for small files, while 64 at once stay in half a GiB.
pub(crate) const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

const HASH_BYTES: usize = 32;
const HEADER_BYTES: usize = HASH_BYTES + 4;

/// The blobs of a batch, as slices of `body`: nothing is copied.
pub(crate) fn decode(mut body: Bytes) -> Result<Vec<(BlobHash, Bytes)>, Refusal> {
    let mut blobs = Vec::new();
    while !body.is_empty() {
        if body.len() < HEADER_BYTES {
            return Err(cut_off(blobs.len()));
        }
        let mut hash = [0; HASH_BYTES];
        body.copy_to_slice(&mut hash);
        let length = usize::try_from(body.get_u32_le()).expect("usize has 32 bits or more");
        if length > body.len() {
            return Err(cut_off(blobs.len()));
        }
        blobs.push((BlobHash(hash), body.split_to(length)));
    }
    Ok(blobs)
}

fn cut_off(frame: usize) -> Refusal {
    Refusal::invalid(
        "bad-batch",
        format!("frame {frame} of the batch is cut off"),
        "a frame is 32 bytes hash, 4 bytes little-endian length and that many bytes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(blobs: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for bytes in blobs {
            body.extend_from_slice(&BlobHash::of(bytes).0);
            body.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
            body.extend_from_slice(bytes);
        }
        body
    }

    #[test]
    fn frames_come_out_in_order() {
        let blobs = decode(encode(&[b"one", b"", b"three"]).into()).unwrap();
        let bytes: Vec<&[u8]> = blobs.iter().map(|(_, bytes)| bytes.as_ref()).collect();
        assert_eq!(bytes, [&b"one"[..], b"", b"three"]);
        assert_eq!(blobs[2].0, BlobHash::of(b"three"));
        assert!(decode(Bytes::new()).unwrap().is_empty());
    }

    #[test]
    fn every_cut_inside_a_frame_is_refused() {
        let whole = encode(&[b"one", b"two!"]);
        let first = HEADER_BYTES + 3;
        for end in 1..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            assert_eq!(decode(cut).is_ok(), end == first, "cut at {end}");
        }
    }

    #[test]
    fn a_length_beyond_the_body_allocates_nothing_and_is_refused() {
        let mut body = vec![0; HASH_BYTES];
        body.extend_from_slice(&u32::MAX.to_le_bytes());
        body.push(1);
        assert!(decode(body.into()).is_err());
    }
}
