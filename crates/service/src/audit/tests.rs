use network::Identity;
use state_machine::Action;

use super::*;

const CLUSTER: ClusterId = ClusterId([7; 32]);

/// A ledger of so many entries.
fn ledger(length: u64) -> Vec<LedgerEntry> {
    let mut previous = [0; 32];
    (0..length)
        .map(|sequence| {
            let mut entry = LedgerEntry {
                sequence,
                index: LogIndex(10 + 2 * sequence),
                at: Timestamp(1_000 * sequence),
                author: format!("ana@n{}", sequence % 3),
                action: [Action::ExperimentSubmitted, Action::AttemptPlaced]
                    [usize::from(sequence % 2 == 1)],
                experiment: (sequence % 2 == 1).then(|| ExperimentId::from_bits(sequence)),
                detail: format!("entry {sequence}"),
                hash: [0; 32],
            };
            entry.hash = entry.chain_hash(&previous);
            previous = entry.hash;
            entry
        })
        .collect()
}

fn records(length: u64) -> Vec<LedgerRecord> {
    ledger(length).iter().map(record_of).collect()
}

/// The head of these records, signed by so many replicas.
fn head(records: &[LedgerRecord], replicas: usize) -> LedgerHead {
    let length = records.len() as u64;
    let hash = records
        .last()
        .map_or_else(|| BlobHash([0; 32]).to_string(), |last| last.hash.clone());
    let bytes = head_bytes(CLUSTER, length, &hash.parse::<BlobHash>().unwrap().0);
    let attestations = (0..replicas).map(|number| {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&directory.path().join("key")).unwrap();
        Attestation {
            node: identity.node_id().to_string(),
            name: format!("n{number}"),
            signature: to_hex(&identity.sign(&bytes)),
        }
    });
    LedgerHead {
        cluster: CLUSTER.to_string(),
        length,
        hash,
        attestations: attestations.collect(),
        silent: Vec::new(),
    }
}

fn check(records: &[LedgerRecord], head: &LedgerHead) -> Result<(), Broken> {
    let mut check = ChainCheck::default();
    records.iter().try_for_each(|record| check.take(record))?;
    check.finish(head)
}

#[test]
fn an_untouched_ledger_follows_and_its_head_is_signed() {
    for length in [0, 1, 9] {
        let records = records(length);
        assert_eq!(check(&records, &head(&records, 2)), Ok(()));
    }
}

/// An edit of one field.
type Edit = fn(&mut LedgerRecord);

/// Every field of a record, edited.
fn edits() -> Vec<(&'static str, Edit)> {
    vec![
        ("sequence", |record| record.sequence += 1),
        ("index", |record| record.index += 1),
        ("time", |record| record.at -= 1),
        ("author", |record| record.author = "eve@n0".into()),
        ("action", |record| record.action = "TokenRevoked".into()),
        ("unknown action", |record| record.action = "Nothing".into()),
        ("experiment", |record| {
            record.experiment = record
                .experiment
                .is_none()
                .then(|| ExperimentId::from_bits(9).to_string())
        }),
        ("bad experiment", |record| {
            record.experiment = Some("../x".into())
        }),
        ("detail", |record| record.detail.push('.')),
        ("hash", |record| record.hash = BlobHash([1; 32]).to_string()),
        ("bad hash", |record| record.hash = "00".into()),
    ]
}

#[test]
fn any_single_edit_of_any_record_is_found_at_that_record() {
    let whole = records(8);
    let head = head(&whole, 1);
    for at in 1..whole.len() {
        for (what, edit) in edits() {
            let mut edited = whole.clone();
            edit(&mut edited[at]);
            let found = check(&edited, &head).expect_err(what);
            let at = at as u64;
            let place = match found {
                Broken::Order { expected, .. } => expected,
                Broken::Unreadable { sequence, .. } | Broken::Changed { sequence } => sequence,
                other => panic!("{what}: {other}"),
            };
            assert_eq!(place, at, "{what}");
        }
    }
}

#[test]
fn a_deleted_swapped_or_repeated_record_is_found() {
    let whole = records(8);
    let head = head(&whole, 1);
    for at in 0..7 {
        let mut deleted = whole.clone();
        deleted.remove(at);
        assert_eq!(
            check(&deleted, &head),
            Err(Broken::Order {
                expected: at as u64,
                found: at as u64 + 1
            })
        );
        let mut swapped = whole.clone();
        swapped.swap(at, at + 1);
        assert!(check(&swapped, &head).is_err());
        let mut repeated = whole.clone();
        repeated.insert(at, whole[at].clone());
        assert!(check(&repeated, &head).is_err());
    }
}

#[test]
fn a_cut_or_rewritten_end_does_not_fit_the_signed_head() {
    let whole = records(8);
    let signed = head(&whole, 2);
    assert_eq!(
        check(&whole[..7], &signed),
        Err(Broken::End { head: 8, found: 7 })
    );
    let mut rewritten = ledger(8);
    let previous = rewritten[6].hash;
    rewritten[7].detail = "nothing happened".into();
    rewritten[7].hash = rewritten[7].chain_hash(&previous);
    let rewritten: Vec<_> = rewritten.iter().map(record_of).collect();
    assert_eq!(check(&rewritten, &signed), Err(Broken::OtherHead));
    // Who also rewrites the head has no signature for it.
    let forged = LedgerHead {
        hash: rewritten[7].hash.clone(),
        ..signed
    };
    assert!(matches!(
        check(&rewritten, &forged),
        Err(Broken::Signature { .. })
    ));
}

#[test]
fn a_head_that_nobody_signed_proves_nothing() {
    for length in [0, 1, 9] {
        let records = records(length);
        assert_eq!(check(&records, &head(&records, 0)), Err(Broken::Unsigned));
    }
}

#[test]
fn a_signature_counts_for_its_cluster_node_and_length_only() {
    let whole = records(3);
    let signed = head(&whole, 2);
    let wrong = |head: LedgerHead| {
        assert!(matches!(
            check(&whole, &head),
            Err(Broken::Signature { .. })
        ))
    };
    wrong(LedgerHead {
        cluster: ClusterId([8; 32]).to_string(),
        ..signed.clone()
    });
    let mut foreign = signed.clone();
    foreign.attestations[0].node = foreign.attestations[1].node.clone();
    wrong(foreign);
    let mut cut = signed;
    cut.attestations[1].signature.pop();
    wrong(cut);
}
