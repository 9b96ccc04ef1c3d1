use proptest::prelude::*;

use super::*;
use crate::codec;

fn header() -> BackupHeader {
    BackupHeader {
        cluster: ClusterId([1; 32]),
        cluster_public_key: vec![2; 36],
        incarnation: Incarnation(1),
        index: LogIndex(77),
        made_at: Timestamp(5),
        made_by: "a (12D3)".to_owned(),
        program: "0.1.0".to_owned(),
        data_level: codec::DATA_LEVEL,
        with_blobs: true,
    }
}

fn file_of(header: BackupHeader) -> Vec<u8> {
    let (mut writer, mut file) = BackupWriter::start(header);
    let parts: [(BackupPart, &str, &[u8]); 4] = [
        (BackupPart::State, "", b"the state"),
        (BackupPart::Archive, "ledger-000000000000", b"an archive"),
        (BackupPart::Blob, "ab", b""),
        (BackupPart::MissingBlob, "cd", b""),
    ];
    for (part, name, bytes) in parts {
        file.extend(writer.begin(part, name, bytes.len() as u64));
        for piece in bytes.chunks(4) {
            file.extend(writer.data(Bytes::copy_from_slice(piece)));
        }
        file.extend(writer.end());
    }
    file.extend(writer.finish().1);
    file
}

fn read(file: &[u8], step: usize) -> Result<(Vec<BackupItem>, BackupSummary), BackupError> {
    let mut reader = BackupReader::default();
    let mut items = Vec::new();
    for piece in file.chunks(step) {
        reader.push(piece);
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
    }
    reader.finish()?;
    match items.last() {
        Some(BackupItem::Whole(summary)) => Ok((items.clone(), summary.clone())),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_backup_reads_back_in_pieces_of_any_size() {
    let file = file_of(header());
    for step in [1, 3, 64, file.len()] {
        let (items, summary) = read(&file, step).unwrap();
        let data: Vec<u8> = items
            .iter()
            .filter_map(|item| match item {
                BackupItem::Data(bytes) => Some(bytes.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(data, b"the statean archive");
        assert_eq!(summary.header, header());
        let counts = (summary.archives, summary.blobs, summary.missing_blobs);
        assert_eq!((counts, summary.bytes), ((1, 1, 1), 19));
    }
}

#[test]
fn a_cut_at_any_byte_is_named() {
    let file = file_of(header());
    for length in 0..file.len() {
        match read(&file[..length], 7).unwrap_err() {
            BackupError::CutOff { part } => assert!(!part.is_empty()),
            BackupError::NotABackup => assert_eq!(length, 0),
            other => panic!("cut at {length}: {other}"),
        }
    }
    let mut longer = file;
    longer.push(0);
    assert!(matches!(read(&longer, 9), Err(BackupError::Damaged { .. })));
}

#[test]
fn damage_names_its_part() {
    let file = file_of(header());
    let at = file.windows(4).position(|bytes| bytes == b"an a").unwrap();
    let mut damaged = file;
    damaged[at] ^= 1;
    let text = read(&damaged, 64).unwrap_err().to_string();
    assert!(text.contains("archive ledger-000000000000"), "{text}");
}

#[test]
fn a_part_that_is_left_out_is_noticed() {
    let (mut writer, mut file) = BackupWriter::start(header());
    file.extend(writer.begin(BackupPart::State, "", 1));
    file.extend(writer.data(Bytes::from_static(b"s")));
    file.extend(writer.end());
    writer.begin(BackupPart::Archive, "ledger-0", 0);
    writer.end(); // never written to the file
    file.extend(writer.begin(BackupPart::Archive, "ledger-1", 0));
    file.extend(writer.end());
    file.extend(writer.finish().1);
    let text = read(&file, 64).unwrap_err().to_string();
    assert!(
        text.contains("ledger-1") && text.contains("chain"),
        "{text}"
    );
}

#[test]
fn newer_formats_and_other_files_are_refused_by_name() {
    let mut file = file_of(header());
    file[8] = 9;
    let text = read(&file, 64).unwrap_err().to_string();
    assert!(text.contains("format 9"), "{text}");
    let newer = BackupHeader {
        data_level: codec::DATA_LEVEL + 1,
        program: "9.9.9".to_owned(),
        ..header()
    };
    let text = read(&file_of(newer), 64).unwrap_err().to_string();
    assert!(text.contains("9.9.9"), "{text}");
    assert_eq!(read(b"PK\x03\x04", 2), Err(BackupError::NotABackup));
}

#[test]
fn the_bytes_are_those_of_version_1() {
    let hash = blake3::hash(&file_of(BackupHeader {
        data_level: 1,
        ..header()
    }));
    assert_eq!(&hash.to_hex()[..16], "9692c1cd03f72372");
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut file = file_of(header());
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(read(&file, 64).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in any::<Vec<u8>>(), step in 1_usize..50) {
        let mut file = file_of(header());
        file.truncate(20);
        file.extend(bytes);
        prop_assert!(read(&file, step).is_err());
    }
}
