//! Values and a small cluster for the tests.

use bytes::Bytes;
use state_machine::{
    AcceptLate, AdmitNode, Applied, AttemptEnd, AttemptReport, ClusterState, Command,
    CreateJoinToken, CreateQueue, CreateUserToken, DrainNode, Entrance, EvictNode, EvictedAttempts,
    ExtendLease, FoundCluster, HoldExperiment, IssueUserToken, LabelNode, Limits, LinePlace,
    LogEntry, LoseAttempt, MoveExperiment, NoteBackup, NoteRefusals, NoteTokenUses,
    OrderExperiment, Outcome, PauseQueue, PinRole, PinnedRole, PlaceAttempt, PreemptFor,
    RankCapacity, RefusalCode, ReleaseExperiment, ReleasePlacements, RemoveNode, RemoveUser,
    ReplaceNode, ReportAttempt, ReserveNode, RevokeToken, SealSegment, SetPriority, ShapeQueue,
    StopExperiment, StopGroup, SubmitExperiment, SubmitGroup, UndrainNode, UpdateNode, VramOveruse,
    WeighUser,
};
use types::{
    AttemptToken, Author, AuthorProof, BlobHash, Cause, CauseKind, ClusterId, DurationMs,
    Environment, ExperimentId, ExperimentSpec, GpuIndex, GpuShare, GroupId, Incarnation, LogIndex,
    NodeFacts, NodeId, Origin, Policy, QueueName, RankPlacement, RequestId, ResourceRequest,
    Resources, Role, SegmentRef, SegmentSummary, SourceTreeRef, Timestamp, TokenId,
};

/// Names of the nodes that tests use; the first founds the cluster.
pub(crate) const NODES: [&str; 4] = ["nodea", "nodeb", "nodec", "noded"];

pub(crate) fn node(number: usize) -> NodeId {
    let name = NODES[number % NODES.len()];
    name.parse().expect("the names are base58")
}

pub(crate) fn token_id(name: &str) -> TokenId {
    name.parse().expect("a valid token id")
}

pub(crate) fn queue_name(name: &str) -> QueueName {
    name.parse().expect("a valid queue name")
}

pub(crate) fn author(user: &str, role: Role) -> Author {
    Author {
        user: user.to_owned(),
        entry_node: node(0),
        role,
        proof: AuthorProof::EntryNode {
            signature: vec![7; 4],
        },
    }
}

pub(crate) fn facts(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        control_addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        bulk_addresses: vec!["/ip4/127.0.0.1/tcp/4002".to_owned()],
        takes_work: true,
        may_vote: true,
        keeps_blobs: true,
        labels: vec![("failure-domain".to_owned(), "rack1".to_owned())],
    }
}

/// What each node of the tests gives: 4 cores, 8 GiB, 2 GPUs of 24 GiB.
pub(crate) fn capacity() -> Resources {
    let gpu = |index| GpuShare {
        index: GpuIndex(index),
        milli: 1_000,
        vram_bytes: 24 << 30,
    };
    Resources {
        cpu_milli: 4_000,
        memory_bytes: 8 << 30,
        disk_bytes: 100 << 30,
        gpus: vec![gpu(0), gpu(1)],
    }
}

pub(crate) fn spec(name: &str) -> ExperimentSpec {
    ExperimentSpec {
        name: name.to_owned(),
        command: vec!["python3".to_owned(), "train.py".to_owned()],
        source: Some(SourceTreeRef {
            tree: BlobHash([3; 32]),
            files: 2,
            bytes: 100,
            revision: "abc+".to_owned(),
            remote: "https://example.org/x.git".to_owned(),
        }),
        working_directory: "src".to_owned(),
        variables: vec![("A".to_owned(), "1".to_owned())],
        environment: Environment::Host,
        parameters: vec![("lr".to_owned(), "0.05".to_owned())],
        resources: ResourceRequest::default(),
        learned: vec!["memory: 2 GiB".to_owned()],
        prefer_nodes: vec![node(1)],
        queue: QueueName::default(),
        policy: Policy::default(),
        outputs: types::Outputs {
            paths: vec!["out/model.pt".to_owned()],
            max_bytes: 1 << 30,
        },
        origin: Some(Origin::Clone(ExperimentId::from_bits(9))),
    }
}

pub(crate) fn resources(cpu_milli: u64) -> Resources {
    Resources {
        cpu_milli,
        memory_bytes: 1 << 30,
        disk_bytes: 0,
        gpus: Vec::new(),
    }
}

pub(crate) fn segment(byte: u8) -> SegmentRef {
    SegmentRef {
        rank: 0,
        hash: BlobHash([byte; 32]),
        summary: SegmentSummary {
            first_sequence: 0,
            end_sequence: 10,
            bytes: 1_000,
            first_at: Timestamp(1),
            last_at: Timestamp(2),
        },
        copies: vec![node(0), node(1)],
    }
}

pub(crate) fn end(kind: CauseKind) -> AttemptEnd {
    AttemptEnd {
        cause: Cause::new(kind, vec!["the test says so".to_owned()]),
        at: Timestamp(77),
        peak_memory_bytes: 5,
        peak_vram_bytes: 4,
        cpu_ms: DurationMs(6),
        tree_kill_method: "cgroup.kill".to_owned(),
        outputs: Some(Box::new(types::KeptOutputs {
            tree: BlobHash::of(b"outputs"),
            files: 2,
            bytes: 3,
            left_out: vec!["big.bin (1 GiB)".to_owned()],
        })),
    }
}

pub(crate) fn found() -> Command {
    Command::FoundCluster(FoundCluster {
        cluster: ClusterId([1; 32]),
        public_key: vec![1, 2, 3],
        founder: node(0),
        facts: facts("nodea"),
        timing: "lan".to_owned(),
    })
}

pub(crate) fn place(experiment: ExperimentId, attempt: u32, on: &[(NodeId, Resources)]) -> Command {
    let rank = |(node, resources): &(NodeId, Resources)| {
        let placement = RankPlacement {
            node: node.clone(),
            resources: resources.clone(),
        };
        let capacity = RankCapacity {
            node_started_at: Timestamp(1),
            total: capacity(),
        };
        (placement, capacity)
    };
    Command::PlaceAttempt(PlaceAttempt {
        experiment,
        attempt,
        computed_at: LogIndex(1),
        ranks: on.iter().map(rank).collect(),
        mirror: Some(node(1)),
        lease_ms: DurationMs::from_secs(5),
        reason: "best fit".to_owned(),
    })
}

pub(crate) fn report(token: AttemptToken, from: NodeId, report: AttemptReport) -> Command {
    report_rank((token, 0), from, report)
}

pub(crate) fn report_rank(
    (token, rank): (AttemptToken, u32),
    from: NodeId,
    report: AttemptReport,
) -> Command {
    Command::ReportAttempt(Box::new(ReportAttempt {
        token,
        node: from,
        rank,
        report,
    }))
}

pub(crate) fn ended(kind: CauseKind) -> AttemptReport {
    AttemptReport::Ended {
        end: end(kind),
        segments: vec![segment(9)],
        inline_records: Bytes::from_static(b"few"),
    }
}

/// Holds so much of GPU 0 instead of what was granted, since 11.
pub(crate) fn overuse(granted: u64, used: u64, until: Option<Timestamp>) -> AttemptReport {
    AttemptReport::VramOveruse(VramOveruse {
        gpu: GpuIndex(0),
        granted_bytes: granted,
        used_bytes: used,
        since: Timestamp(11),
        until,
        is_stopped: false,
    })
}

pub(crate) fn lose(token: AttemptToken) -> Command {
    lose_rank((token, 0))
}

pub(crate) fn lose_rank((token, rank): (AttemptToken, u32)) -> Command {
    Command::LoseAttempt(LoseAttempt {
        token,
        rank,
        cause: Cause::new(
            CauseKind::NodeLost,
            vec!["no renewal for 5.15 s".to_owned()],
        ),
        segments: vec![segment(8)],
    })
}

/// A state and the index of its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) state: ClusterState,
    pub(crate) log: Vec<LogEntry>,
}

impl Cluster {
    /// Founded, with two nodes.
    pub(crate) fn founded() -> Self {
        let mut cluster = Self::default();
        cluster.accept(found());
        cluster.accept(Command::CreateJoinToken(CreateJoinToken {
            id: token_id("t-1"),
            verifier: [4; 32],
            uses: 2,
            expires_at: Timestamp(1_000_000),
        }));
        cluster.accept(Command::AdmitNode(AdmitNode {
            token: token_id("t-1"),
            node: node(1),
            facts: facts("nodeb"),
        }));
        cluster
    }

    pub(crate) fn entry(&mut self, entry: LogEntry) -> Applied {
        let index = LogIndex(self.log.len() as u64 + 1);
        let applied = self.state.apply(index, &entry);
        self.log.push(entry);
        applied
    }

    pub(crate) fn by(&mut self, author: Author, command: Command) -> Outcome {
        let time = Timestamp(1_000 + self.log.len() as u64);
        let applied = self.entry(LogEntry {
            time,
            author,
            request: None,
            command,
        });
        state_machine::check_invariants(&self.state).expect("the state agrees with itself");
        applied.outcome
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        self.by(Author::node(node(0)), command)
    }

    pub(crate) fn accept(&mut self, command: Command) -> Outcome {
        let outcome = self.apply(command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        outcome
    }

    #[track_caller]
    pub(crate) fn refuse(&mut self, command: Command, code: RefusalCode) {
        let before = self.state.ledger_head();
        let outcome = self.apply(command);
        assert_eq!(refusal(&outcome), Some(code), "{outcome:?}");
        assert_eq!(
            self.state.ledger_head(),
            before,
            "a refusal changes no history"
        );
    }

    /// Refused, and that somebody tried is in the history.
    #[track_caller]
    pub(crate) fn refuse_and_record(&mut self, command: Command, code: RefusalCode) {
        let (_, before) = self.state.ledger_head();
        let outcome = self.apply(command);
        assert_eq!(refusal(&outcome), Some(code), "{outcome:?}");
        assert_eq!(self.state.ledger_head().1, before + 1);
    }

    pub(crate) fn submit(&mut self, spec: ExperimentSpec) -> ExperimentId {
        let command = Command::SubmitExperiment(Box::new(SubmitExperiment { spec }));
        match self.accept(command) {
            Outcome::Submitted(id) => id,
            other => unreachable!("{other:?}"),
        }
    }

    /// Submits and places it on node `on`.
    pub(crate) fn run(&mut self, on: usize) -> AttemptToken {
        let id = self.submit(spec("digits"));
        self.place_again(id, 1, on)
    }

    pub(crate) fn place_again(
        &mut self,
        id: ExperimentId,
        attempt: u32,
        on: usize,
    ) -> AttemptToken {
        match self.accept(place(id, attempt, &[(node(on), resources(1_000))])) {
            Outcome::Placed(token) => token,
            other => unreachable!("{other:?}"),
        }
    }
}

pub(crate) fn refusal(outcome: &Outcome) -> Option<RefusalCode> {
    match outcome {
        Outcome::Refused(refusal) => Some(refusal.code),
        Outcome::Done | Outcome::Submitted(_) | Outcome::Placed(_) | Outcome::GroupSubmitted(_) => {
            None
        }
    }
}

/// One of each command, in the order of the enum.
#[expect(clippy::too_many_lines, reason = "one value per command")]
pub(crate) fn every_command() -> Vec<(&'static str, Command)> {
    let token = AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(5),
        attempt: 2,
        placed_at: LogIndex(9),
    };
    let gpus = Resources {
        gpus: capacity().gpus,
        ..resources(2_000)
    };
    vec![
        ("found-cluster", found()),
        (
            "create-join-token",
            Command::CreateJoinToken(CreateJoinToken {
                id: token_id("t-1"),
                verifier: [4; 32],
                uses: 2,
                expires_at: Timestamp(9),
            }),
        ),
        (
            "revoke-token",
            Command::RevokeToken(RevokeToken {
                id: token_id("t-1"),
            }),
        ),
        (
            "admit-node",
            Command::AdmitNode(AdmitNode {
                token: token_id("t-1"),
                node: node(1),
                facts: facts("nodeb"),
            }),
        ),
        (
            "update-node",
            Command::UpdateNode(UpdateNode {
                node: node(1),
                facts: facts("new"),
            }),
        ),
        (
            "remove-node",
            Command::RemoveNode(RemoveNode {
                node: node(1),
                reason: "sold".to_owned(),
            }),
        ),
        (
            "submit-experiment",
            Command::SubmitExperiment(Box::new(SubmitExperiment {
                spec: spec("digits"),
            })),
        ),
        (
            "stop-experiment",
            Command::StopExperiment(StopExperiment {
                experiment: token.experiment,
            }),
        ),
        (
            "place-attempt",
            place(token.experiment, 2, &[(node(0), gpus)]),
        ),
        (
            "report-started",
            report(token, node(0), AttemptReport::Started { at: Timestamp(10) }),
        ),
        (
            "report-ended",
            report(token, node(0), ended(CauseKind::ExitCode(3))),
        ),
        (
            "extend-lease",
            Command::ExtendLease(ExtendLease {
                token,
                lease_ms: DurationMs::from_secs(300),
                reason: "long work".to_owned(),
            }),
        ),
        ("lose-attempt", lose(token)),
        (
            "seal-segment",
            Command::SealSegment(SealSegment {
                token,
                segment: segment(9),
            }),
        ),
        (
            "create-queue",
            Command::CreateQueue(CreateQueue {
                name: queue_name("night"),
                priority: -3,
            }),
        ),
        (
            "move-experiment",
            Command::MoveExperiment(MoveExperiment {
                experiment: token.experiment,
                queue: queue_name("night"),
            }),
        ),
        (
            "create-user-token",
            Command::CreateUserToken(CreateUserToken {
                id: token_id("u-1"),
                secret_hash: [6; 32],
                user: "ann".to_owned(),
                role: Role::Member,
            }),
        ),
        (
            "issue-user-token",
            Command::IssueUserToken(IssueUserToken {
                id: token_id("u-2"),
                secret_hash: [8; 32],
                user: "ben".to_owned(),
                role: Role::Viewer,
                expires_at: Some(Timestamp(9_000_000)),
            }),
        ),
        (
            "note-token-uses",
            Command::NoteTokenUses(NoteTokenUses {
                uses: vec![(token_id("u-2"), Timestamp(125))],
            }),
        ),
        (
            "note-refusals",
            Command::NoteRefusals(NoteRefusals {
                entrance: Entrance::Http,
                source: "127.0.0.1".to_owned(),
                times: 20,
                locked_out_ms: 60_000,
            }),
        ),
        (
            "note-backup",
            Command::NoteBackup(NoteBackup {
                node: node(1),
                with_blobs: true,
            }),
        ),
        (
            "release-placements",
            Command::ReleasePlacements(ReleasePlacements {
                incarnation: Incarnation(2),
            }),
        ),
        (
            "remove-user",
            Command::RemoveUser(RemoveUser {
                user: "eve".to_owned(),
            }),
        ),
        (
            "accept-late",
            Command::AcceptLate(AcceptLate {
                experiment: token.experiment,
                attempt: 2,
            }),
        ),
        (
            "drain-node",
            Command::DrainNode(DrainNode {
                node: node(1),
                evacuate: true,
                reason: "new disk".to_owned(),
            }),
        ),
        (
            "pin-role",
            Command::PinRole(PinRole {
                node: node(1),
                role: Some(PinnedRole::Worker),
            }),
        ),
        (
            "undrain-node",
            Command::UndrainNode(UndrainNode { node: node(1) }),
        ),
        (
            "replace-node",
            Command::ReplaceNode(Box::new(ReplaceNode {
                admit: AdmitNode {
                    token: token_id("t-1"),
                    node: node(3),
                    facts: facts("noded"),
                },
                old: node(3),
            })),
        ),
        (
            "evict-node",
            Command::EvictNode(Box::new(EvictNode {
                node: node(2),
                reason: "burnt".to_owned(),
                attempts: EvictedAttempts::Now(vec![(token, vec![segment(4)])]),
            })),
        ),
        (
            "hold-experiment",
            Command::HoldExperiment(HoldExperiment {
                experiment: token.experiment,
                reason: "data is late".to_owned(),
            }),
        ),
        (
            "release-experiment",
            Command::ReleaseExperiment(ReleaseExperiment {
                experiment: token.experiment,
            }),
        ),
        (
            "order-experiment",
            Command::OrderExperiment(OrderExperiment {
                experiment: token.experiment,
                place: LinePlace::Before(ExperimentId::from_bits(6)),
            }),
        ),
        (
            "set-priority",
            Command::SetPriority(SetPriority {
                experiment: token.experiment,
                priority: -5,
            }),
        ),
        (
            "shape-queue",
            Command::ShapeQueue(ShapeQueue {
                queue: queue_name("night"),
                priority: Some(2),
                weight: Some(3),
                limits: Some(Limits {
                    gpu_milli: 8_000,
                    ..Limits::default()
                }),
                user_limits: None,
            }),
        ),
        (
            "pause-queue",
            Command::PauseQueue(PauseQueue {
                queue: queue_name("night"),
                paused: true,
                reason: "new switch".to_owned(),
            }),
        ),
        (
            "weigh-user",
            Command::WeighUser(WeighUser {
                user: "ann".to_owned(),
                weight: 2,
            }),
        ),
        (
            "label-node",
            Command::LabelNode(LabelNode {
                node: node(0),
                labels: vec![
                    ("rack".to_owned(), Some("7".to_owned())),
                    ("zone".to_owned(), None),
                ],
            }),
        ),
        (
            "reserve-node",
            Command::ReserveNode(ReserveNode {
                node: node(0),
                reserved: Some(("root".to_owned(), Timestamp(200))),
            }),
        ),
        (
            "preempt-for",
            Command::PreemptFor(Box::new(PreemptFor {
                beneficiary: ExperimentId::from_bits(6),
                computed_at: LogIndex(9),
                places: vec![RankPlacement {
                    node: node(0),
                    resources: resources(1_000),
                }],
                victims: vec![token],
                reason: "a higher class".to_owned(),
            })),
        ),
        (
            "report-vram-overuse",
            report(token, node(0), overuse(12 << 30, 30 << 30, None)),
        ),
        ("submit-group", submit_group(2)),
        (
            "stop-group",
            Command::StopGroup(StopGroup {
                group: GroupId::from_bits(7),
            }),
        ),
    ]
}

/// A group of so many experiments that differ in `bs`.
pub(crate) fn submit_group(members: usize) -> Command {
    let mut spec = spec("digits");
    spec.policy.stop_rule = "loss > 2 after step 1000".parse().ok();
    Command::SubmitGroup(Box::new(SubmitGroup {
        spec,
        sweep: "bs=32,64".to_owned(),
        varied: vec!["bs".to_owned()],
        values: (1..=members).map(|n| vec![(32 * n).to_string()]).collect(),
    }))
}

pub(crate) fn log_entry(command: Command) -> LogEntry {
    LogEntry {
        time: Timestamp(123),
        author: author("ann", Role::Admin),
        request: Some(RequestId {
            session: [2; 16],
            sequence: 3,
        }),
        command,
    }
}
