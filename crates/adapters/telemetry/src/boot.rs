//! Which boot of the kernel this is.

use types::BlobHash;

/// The kernel's boot id, hashed to 64 bits (the first eight bytes, little-endian, of the BLAKE3 hash of its text):
/// another one proves that everything that ran before is gone. 0 where the kernel does not tell it, which proves
/// nothing. The executor computes the same number.
#[must_use]
pub fn boot_id() -> u64 {
    match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(text) => hash(&text),
        // Not readable means not known: 0, as documented.
        Err(_) => 0,
    }
}

fn hash(text: &[u8]) -> u64 {
    let BlobHash(bytes) = BlobHash::of(text.trim_ascii());
    let (first, _rest) = bytes
        .split_first_chunk::<8>()
        .expect("a BLAKE3 hash has 32 bytes");
    u64::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_boot_has_the_same_number_and_another_has_not() {
        assert_ne!(boot_id(), 0);
        assert_eq!(boot_id(), boot_id());
        let text = b"0f1e2d3c-0000-4000-8000-000000000001\n";
        assert_eq!(hash(text), hash(text.trim_ascii()));
        assert_ne!(hash(text), hash(b"0f1e2d3c-0000-4000-8000-000000000002\n"));
    }
}
