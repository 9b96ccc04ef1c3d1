//! A backup file: the same items however it is cut, and nothing more than came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use types::{BackupItem, BackupReader};

fn read(pieces: &[&[u8]]) -> (Vec<BackupItem>, bool) {
    let mut reader = BackupReader::default();
    let mut items = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(_) => return (items, false),
            }
        }
    }
    let whole = reader.finish().is_ok();
    (items, whole)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, file)) = bytes.split_first() else {
        return;
    };
    let (head, tail) = file.split_at(usize::from(*cut).min(file.len()));
    assert_eq!(read(&[file]), read(&[head, tail]), "cut at {cut}");
});
