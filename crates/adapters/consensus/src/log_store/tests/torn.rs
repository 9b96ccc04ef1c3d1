//! The log's file is cut at every byte of what the last append wrote: a torn write of the disk.

use std::ops::RangeInclusive;

use super::*;

/// A log of 200 entries, and what one more changed in it.
struct LastRecord {
    /// As it is when the machine dies after the last append.
    copied: TempDir,
    /// sled's file before and after it.
    before: Vec<u8>,
    after: Vec<u8>,
    /// The mark before it.
    old_mark: Vec<u8>,
    /// The entries before and after it.
    old: Vec<RaftEntry>,
    new: Vec<RaftEntry>,
}

impl LastRecord {
    async fn append() -> Self {
        let directory = used_log().await;
        let mut log = open(&directory).unwrap();
        let old = all(&mut log).await;
        let before = std::fs::read(directory.path().join("log/db")).unwrap();
        let old_mark = std::fs::read(directory.path().join("commit.mark")).unwrap();
        log.blocking_append([entry(1, 200, &[0xab; 300])])
            .await
            .unwrap();
        let new = all(&mut log).await;
        assert_eq!((old.len(), new.len()), (200, 201));
        // As it is when the machine dies now: a close would write more.
        let copied = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copied.path());
        log.close().await;
        Self {
            after: std::fs::read(copied.path().join("log/db")).unwrap(),
            copied,
            before,
            old_mark,
            old,
            new,
        }
    }

    fn byte_before(&self, at: usize) -> u8 {
        self.before.get(at).copied().unwrap_or(0)
    }

    /// Where it can be cut.
    fn cuts(&self) -> RangeInclusive<usize> {
        let differs = |at: &usize| self.byte_before(*at) != self.after[*at];
        let first = (0..self.after.len()).find(differs).unwrap();
        let last = (0..self.after.len()).rfind(differs).unwrap();
        assert!((300..20_000).contains(&(last - first)), "{first}..{last}");
        first..=last + 1
    }

    /// A copy in which what follows `at` is as it was before: the disk had not got to it.
    fn cut_at(&self, at: usize) -> TempDir {
        let torn = tempfile::tempdir().unwrap();
        copy_directory(self.copied.path(), torn.path());
        let file = std::fs::File::options()
            .write(true)
            .open(torn.path().join("log/db"))
            .unwrap();
        let rest: Vec<u8> = (at..self.after.len())
            .map(|at| self.byte_before(at))
            .collect();
        file.write_all_at(&rest, at as u64).unwrap();
        torn
    }
}

/// The mark was synced: the entry was acknowledged, so the disk has lied.
#[tokio::test]
async fn a_log_cut_anywhere_in_its_last_record_opens_whole_or_is_refused() {
    let record = LastRecord::append().await;
    let (mut whole, mut refused) = (0, 0);
    for at in record.cuts() {
        let torn = record.cut_at(at);
        match open(&torn) {
            Ok(mut log) => {
                assert_eq!(all(&mut log).await, record.new, "cut at byte {at}");
                log.close().await;
                whole += 1;
            }
            Err(error @ Error::Damaged { .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains("log/db") && text.contains("--rejoin"),
                    "cut at byte {at}: {text}"
                );
                refused += 1;
            }
            Err(error) => panic!("cut at byte {at}: {error:?}"),
        }
    }
    println!("{whole} opened whole, {refused} refused");
    assert!(whole > 0 && refused > 100, "{whole} {refused}");
}

/// The ordinary power cut: the mark is still the one before, so nobody was told of the entry.
#[tokio::test]
async fn a_log_cut_in_a_record_that_was_not_acknowledged_opens_with_all_that_were() {
    let record = LastRecord::append().await;
    let (mut without, mut with) = (0, 0);
    for at in record.cuts() {
        let torn = record.cut_at(at);
        std::fs::write(torn.path().join("commit.mark"), &record.old_mark).unwrap();
        let mut log = open(&torn).unwrap_or_else(|error| panic!("cut at byte {at}: {error}"));
        let found = all(&mut log).await;
        if found == record.old {
            without += 1;
        } else {
            assert_eq!(found, record.new, "cut at byte {at}");
            with += 1;
        }
        // It goes on from there.
        let next = record.old.len() as u64 + u64::from(found == record.new);
        log.blocking_append(numbered(next..next + 1)).await.unwrap();
        log.close().await;
    }
    println!("{without} opened without the new entry, {with} with it");
    assert!(without > 100 && with > 0, "{without} {with}");
}
