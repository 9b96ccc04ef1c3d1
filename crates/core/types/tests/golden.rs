//! Stored and sent bytes do not change: each line of `golden.txt` is a name and what was written under it once.

#[cfg(test)]
#[path = "golden/causes.rs"]
mod causes;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::{
    AttemptSample, AttemptToken, Author, AuthorProof, BlobHash, Chunk, ClusterId, ConsoleStream,
    DiskUse, DurationMs, Environment, EnvironmentFile, EnvironmentKind, EnvironmentRef,
    EnvironmentSpec, EnvironmentSpecV1, ExperimentId, ExperimentSpec, GitFacts, GpuIndex,
    GpuReport, GpuShare, GpuUse, Incarnation, JoinProof, JoinReply, JoinRequest, LogIndex, Member,
    MemberList, NetworkOf, NetworkUse, NodeFacts, NodeId, NodeReport, Origin, Policy, QueueName,
    RankPlacement, Record, RecordBody, RequestId, ResourceRequest, Resources, Role, SegmentRef,
    SegmentSummary, SignedMemberList, SourceTree, SourceTreeRef, Timestamp, TreeEntry,
    TreeEntryKind, WantedAttempt, WantedSet, codec,
};

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> Option<Vec<u8>> {
    let (_, hex) = GOLDEN
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(found, _)| *found == name)?;
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("golden.txt holds hex");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

/// The bytes are the golden ones, and the golden ones still read as the value.
#[track_caller]
fn hold<T: Serialize + DeserializeOwned + PartialEq>(values: &[(&str, T)]) {
    let differing: Vec<_> = values
        .iter()
        .filter_map(|(name, value)| {
            let bytes = codec::encode(value);
            let known = golden(name);
            let readable = known
                .as_deref()
                .and_then(|bytes| codec::decode::<T>(bytes, codec::MAX_MESSAGE_BYTES).ok());
            let same = known.as_deref() == Some(&bytes[..]) && readable.as_ref() == Some(value);
            (!same).then(|| format!("{name} {}", hex(&bytes)))
        })
        .collect();
    assert!(
        differing.is_empty(),
        "stored and sent types only get new variants at their end. Bytes now:\n{}",
        differing.join("\n")
    );
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a base58 name")
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: "box1".to_owned(),
        version: "0.1.0".to_owned(),
        control_addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        bulk_addresses: vec!["/ip4/127.0.0.1/tcp/4002".to_owned()],
        takes_work: true,
        may_vote: false,
        keeps_blobs: true,
        labels: vec![("failure-domain".to_owned(), "rack1".to_owned())],
    }
}

fn token() -> AttemptToken {
    AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(0x12_3456_789a),
        attempt: 2,
        placed_at: LogIndex(77),
    }
}

fn resources() -> Resources {
    Resources {
        cpu_milli: 2_000,
        memory_bytes: 1 << 30,
        disk_bytes: 3,
        gpus: vec![GpuShare {
            index: GpuIndex(1),
            milli: 500,
            vram_bytes: 9,
        }],
    }
}

fn spec() -> ExperimentSpec {
    ExperimentSpec {
        name: "digits".to_owned(),
        command: vec!["python3".to_owned(), "train.py".to_owned()],
        source: Some(SourceTreeRef {
            tree: BlobHash([3; 32]),
            files: 2,
            bytes: 100,
            revision: "abc+".to_owned(),
            remote: String::new(),
        }),
        working_directory: "src".to_owned(),
        variables: vec![("A".to_owned(), "1".to_owned())],
        environment: Environment::Locked(EnvironmentRef {
            spec: BlobHash([4; 32]),
            summary: "uv.lock, 2 packages".to_owned(),
        }),
        parameters: vec![("lr".to_owned(), "0.05".to_owned())],
        resources: ResourceRequest {
            gpu_milli: 500,
            gpu_models: vec!["H100".to_owned()],
            constraints: vec![("zone".to_owned(), "a".to_owned())],
            ..ResourceRequest::default()
        },
        learned: vec!["memory: 2 GiB".to_owned()],
        prefer_nodes: vec![node("nodeb")],
        queue: QueueName::default(),
        policy: Policy::default(),
        outputs: types::Outputs {
            paths: vec!["out/model.pt".to_owned()],
            max_bytes: 1 << 30,
        },
        origin: Some(Origin::Clone(ExperimentId::from_bits(9))),
    }
}

#[test]
fn environments() {
    let spec = EnvironmentSpec::V1(EnvironmentSpecV1 {
        kind: EnvironmentKind::Live,
        python: "3.11".to_owned(),
        files: vec![EnvironmentFile {
            path: "requirements.txt".to_owned(),
            content: Bytes::from_static(b"numpy==2.0.0\n"),
        }],
        requirements: vec!["requirements.txt".to_owned()],
        packages: vec!["packages/own".to_owned()],
        import_paths: vec![String::new(), "src".to_owned()],
    });
    hold(&[("environment-spec-v1", spec)]);
}

#[test]
fn wanted_set() {
    let attempt = WantedAttempt {
        token: token(),
        rank: 0,
        gang: Vec::new(),
        spec: spec(),
        submitted_by: "ann@box1".to_owned(),
        resources: resources(),
        mirror: Some(node("nodeb")),
        lease_ms: DurationMs(5_000),
        stop_requested_by: Some("bob@box2".to_owned()),
    };
    let set = WantedSet {
        incarnation: Incarnation(1),
        index: LogIndex(80),
        attempts: vec![attempt],
    };
    hold(&[("wanted-set", set)]);
    let rank = RankPlacement {
        node: node("nodea"),
        resources: resources(),
    };
    hold(&[("rank-placement", rank)]);
}

#[test]
fn records_and_segments() {
    let record = |body| Record {
        sequence: 4,
        at: Timestamp(5),
        body,
    };
    let console = |stream| {
        record(RecordBody::Console {
            stream,
            bytes: Bytes::from_static(b"loss 0.1\n"),
        })
    };
    hold(&[
        ("record-stdout", console(ConsoleStream::Stdout)),
        ("record-stderr", console(ConsoleStream::Stderr)),
        ("record-muster", console(ConsoleStream::Muster)),
        ("record-build", console(ConsoleStream::Build)),
        (
            "record-scalar",
            record(RecordBody::Scalar {
                name: "loss".to_owned(),
                step: -1,
                value_bits: 0.25_f64.to_bits(),
            }),
        ),
        (
            "record-sample",
            record(RecordBody::Sample(AttemptSample {
                interval: DurationMs(5_000),
                cpu_milli: 1_500,
                memory_bytes: 7,
                peak_memory_bytes: 8,
                processes: 3,
                threads: 4,
                disk: Some(DiskUse {
                    read_bytes_per_second: 9,
                    written_bytes_per_second: 10,
                }),
                gpus: Some(GpuUse {
                    vram_bytes: 11,
                    utilisation_percent: 250,
                }),
                network: Some(NetworkUse {
                    received_bytes_per_second: 12,
                    sent_bytes_per_second: 13,
                    of: NetworkOf::Host,
                }),
                console_bytes: 14,
            })),
        ),
        (
            "record-sample-without",
            record(RecordBody::Sample(AttemptSample::default())),
        ),
        ("record-gap", record(RecordBody::Gap { bytes: 12 })),
    ]);
    let segment = SegmentRef {
        rank: 0,
        hash: BlobHash([9; 32]),
        summary: SegmentSummary {
            first_sequence: 0,
            end_sequence: 10,
            bytes: 1_000,
            first_at: Timestamp(1),
            last_at: Timestamp(2),
        },
        copies: vec![node("nodea"), node("nodeb")],
    };
    hold(&[("segment-ref", segment)]);
}

#[test]
fn joining() {
    hold(&[
        (
            "join-request-v1",
            JoinRequest::V1 {
                token: "t-1".parse().expect("a token id"),
                proof: JoinProof {
                    nonce: [1; 16],
                    mac: [2; 32],
                },
                facts: facts(),
            },
        ),
        ("join-request-members", JoinRequest::Members),
        (
            "join-request-again",
            JoinRequest::Again {
                token: "t-1".parse().expect("a token id"),
                proof: JoinProof {
                    nonce: [1; 16],
                    mac: [2; 32],
                },
                facts: facts(),
                was: vec![(node("nodeb"), vec![7; 4])],
            },
        ),
    ]);
    let list = MemberList {
        cluster: ClusterId([5; 32]),
        incarnation: Incarnation(1),
        version: 6,
        timing: "lan".to_owned(),
        members: vec![Member {
            node: node("nodea"),
            facts: facts(),
            has_state: true,
        }],
    };
    let signed = SignedMemberList {
        list: codec::encode(&list),
        cluster_public_key: vec![8; 4],
        signature: vec![9; 4],
    };
    hold(&[("member-list", list)]);
    hold(&[
        (
            "join-reply-admitted",
            JoinReply::Admitted {
                members: signed.clone(),
            },
        ),
        (
            "join-reply-refused",
            JoinReply::Refused {
                code: "expired".to_owned(),
                message: "ask for a new one".to_owned(),
            },
        ),
        (
            "join-reply-removed",
            JoinReply::Removed {
                members: signed,
                message: "removed by ann".to_owned(),
            },
        ),
    ]);
}

#[test]
fn source_tree() {
    let entry = |path: &str, kind| TreeEntry {
        path: path.to_owned(),
        kind,
    };
    let tree = SourceTree::V1 {
        entries: vec![
            entry(
                "a.py",
                TreeEntryKind::File {
                    hash: BlobHash([1; 32]),
                    bytes: 3,
                    executable: true,
                },
            ),
            entry(
                "b",
                TreeEntryKind::Symlink {
                    target: "a.py".to_owned(),
                },
            ),
            entry("c", TreeEntryKind::Directory),
        ],
        git: Some(GitFacts {
            commit: "abc".to_owned(),
            branch: "main".to_owned(),
            remote: String::new(),
            diff: Some(BlobHash([2; 32])),
            untracked: vec!["d".to_owned()],
        }),
    };
    hold(&[("source-tree-v1", tree)]);
    let chunk = Chunk {
        offset: 1,
        length: 2,
        hash: BlobHash([3; 32]),
    };
    hold(&[("chunk", chunk)]);
}

#[test]
fn node_report() {
    let report = NodeReport {
        node: node("nodea"),
        node_started_at: Timestamp(1),
        sequence: 2,
        taken_at: Timestamp(3),
        boot_id: 4,
        cpu_milli: 5,
        cpu_busy_milli: 6,
        memory_bytes: 7,
        memory_used_bytes: 8,
        disk_free_bytes: 9,
        gpus: vec![GpuReport {
            uuid: "declared-0".to_owned(),
            model: "H100".to_owned(),
            vram_total_bytes: 10,
            vram_used_bytes: 11,
            vram_foreign_bytes: 13,
            utilisation_percent: 12,
            links: 14,
            numa_node: Some(15),
        }],
        declared: vec!["gpus".to_owned()],
        warnings: vec!["disk nearly full".to_owned()],
        refuses_work: true,
    };
    hold(&[("node-report", report)]);
}

#[test]
fn authors_and_requests() {
    let author = |role, proof| Author {
        user: "ann".to_owned(),
        entry_node: node("nodea"),
        role,
        proof,
    };
    hold(&[
        ("author-node", Author::node(node("nodea"))),
        (
            "author-entry-node",
            author(
                Role::Member,
                AuthorProof::EntryNode {
                    signature: vec![1, 2],
                },
            ),
        ),
        (
            "author-token",
            author(
                Role::Viewer,
                AuthorProof::Token {
                    token: "u-1".parse().expect("a token id"),
                },
            ),
        ),
    ]);
    hold(&[("request-from-key", RequestId::from_key("ann", "nightly"))]);
}
