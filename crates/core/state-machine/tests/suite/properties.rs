//! Random logs: any sequence of commands, sensible or not.

use proptest::prelude::*;
use state_machine::{
    AdmitNode, AttemptReport, ClusterState, Command, CreateJoinToken, CreateQueue, DrainNode,
    EvictNode, EvictedAttempts, ExtendLease, HoldExperiment, LabelNode, Limits, LinePlace,
    LogEntry, MoveExperiment, OrderExperiment, Outcome, PauseQueue, PinRole, PinnedRole,
    PreemptFor, ReleaseExperiment, RemoveNode, ReplaceNode, ReserveNode, RevokeToken, SealSegment,
    SetPriority, ShapeQueue, StopExperiment, StopGroup, SubmitExperiment, UndrainNode, UpdateNode,
    WeighUser, check_invariants,
};
use types::{
    AttemptToken, Author, CauseKind, DurationMs, ExperimentId, GpuIndex, GpuShare, GroupId,
    Incarnation, LogIndex, RankPlacement, RequestId, Resources, Role, Timestamp, codec,
};

use crate::samples::{
    Cluster, NODES, author, capacity, ended, facts, lose_rank, node, overuse, place, queue_name,
    report_rank, resources, segment, spec, submit_group, token_id,
};

/// A command in the making: what it names is picked from the state when it is applied.
#[derive(Clone, Debug)]
enum Op {
    Submit {
        priority: i32,
        queue: u8,
        retries: u32,
        nodes: u32,
    },
    Place {
        pick: usize,
        node: usize,
        cpu_milli: u64,
        gpu: Option<(u32, u64)>,
        off_by: u32,
    },
    Started {
        pick: usize,
        wrong_node: bool,
    },
    Ended {
        pick: usize,
        any_attempt: bool,
        cause: u8,
    },
    Overuse {
        pick: usize,
        used: u64,
        is_over: bool,
    },
    Lose {
        pick: usize,
        any_attempt: bool,
    },
    Extend {
        pick: usize,
        seconds: u64,
    },
    Seal {
        pick: usize,
        byte: u8,
    },
    Stop {
        pick: usize,
        user: u8,
    },
    Move {
        pick: usize,
        queue: u8,
    },
    Queue {
        queue: u8,
        priority: i32,
    },
    Token {
        number: u8,
        uses: u32,
    },
    Revoke {
        number: u8,
    },
    Admit {
        token: u8,
        node: usize,
    },
    Update {
        node: usize,
        name: u8,
    },
    Remove {
        node: usize,
    },
    Drain {
        node: usize,
        evacuate: bool,
    },
    Undrain {
        node: usize,
    },
    Pin {
        node: usize,
        role: u8,
    },
    Evict {
        node: usize,
        is_dead: bool,
    },
    Replace {
        token: u8,
        node: usize,
        old: usize,
    },
    Hold {
        pick: usize,
        held: bool,
    },
    Order {
        pick: usize,
        place: u8,
        other: usize,
    },
    Priority {
        pick: usize,
        priority: i32,
    },
    Shape {
        queue: u8,
        gpus: u64,
        experiments: u64,
    },
    Pause {
        queue: u8,
        paused: bool,
    },
    Label {
        node: usize,
        name: u8,
        given: bool,
    },
    Reserve {
        node: usize,
        user: u8,
        for_ms: u64,
    },
    Preempt {
        pick: usize,
        victim: usize,
    },
    Weigh {
        user: u8,
        weight: u32,
    },
    Group {
        members: usize,
        user: u8,
    },
    StopGroup {
        pick: usize,
        user: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0_usize..6;
    let small = 0_u8..3;
    let gpu = prop::option::of((0_u32..3, prop_oneof![Just(500_u64), Just(1_000)]));
    prop_oneof![
        6 => (-2_i32..3, small.clone(), 0_u32..2, prop_oneof![2 => Just(1_u32), 1 => 2_u32..4])
            .prop_map(|(priority, queue, retries, nodes)| Op::Submit { priority, queue, retries, nodes }),
        8 => (pick(), 0_usize..4, 1_u64..3_000, gpu, prop_oneof![9 => Just(0_u32), 1 => Just(1)])
            .prop_map(|(pick, node, cpu_milli, gpu, off_by)| Op::Place { pick, node, cpu_milli, gpu, off_by }),
        3 => (pick(), prop::bool::weighted(0.1)).prop_map(|(pick, wrong_node)| Op::Started { pick, wrong_node }),
        4 => (pick(), any::<bool>(), 0_u8..5).prop_map(|(pick, any_attempt, cause)| Op::Ended { pick, any_attempt, cause }),
        1 => (pick(), 0_u64..99, any::<bool>()).prop_map(|(pick, used, is_over)| Op::Overuse { pick, used, is_over }),
        2 => (pick(), any::<bool>()).prop_map(|(pick, any_attempt)| Op::Lose { pick, any_attempt }),
        1 => (pick(), 0_u64..400).prop_map(|(pick, seconds)| Op::Extend { pick, seconds }),
        1 => (pick(), small.clone()).prop_map(|(pick, byte)| Op::Seal { pick, byte }),
        2 => (pick(), small.clone()).prop_map(|(pick, user)| Op::Stop { pick, user }),
        1 => (pick(), small.clone()).prop_map(|(pick, queue)| Op::Move { pick, queue }),
        1 => (small.clone(), any::<i32>()).prop_map(|(queue, priority)| Op::Queue { queue, priority }),
        1 => (small.clone(), 0_u32..3).prop_map(|(number, uses)| Op::Token { number, uses }),
        1 => small.clone().prop_map(|number| Op::Revoke { number }),
        2 => (small.clone(), 0_usize..4).prop_map(|(token, node)| Op::Admit { token, node }),
        1 => (0_usize..4, small).prop_map(|(node, name)| Op::Update { node, name }),
        1 => (0_usize..4).prop_map(|node| Op::Remove { node }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(node, evacuate)| Op::Drain { node, evacuate }),
        1 => (0_usize..4).prop_map(|node| Op::Undrain { node }),
        1 => (0_usize..4, 0_u8..3).prop_map(|(node, role)| Op::Pin { node, role }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(node, is_dead)| Op::Evict { node, is_dead }),
        1 => (0_u8..3, 0_usize..4, 0_usize..4).prop_map(|(token, node, old)| Op::Replace { token, node, old }),
        1 => (pick(), any::<bool>()).prop_map(|(pick, held)| Op::Hold { pick, held }),
        2 => (pick(), 0_u8..4, pick()).prop_map(|(pick, place, other)| Op::Order { pick, place, other }),
        1 => (pick(), any::<i32>()).prop_map(|(pick, priority)| Op::Priority { pick, priority }),
        1 => (0_u8..3, 0_u64..2_000, 0_u64..4).prop_map(|(queue, gpus, experiments)| Op::Shape { queue, gpus, experiments }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(queue, paused)| Op::Pause { queue, paused }),
        1 => (0_usize..4, 0_u8..3, any::<bool>()).prop_map(|(node, name, given)| Op::Label { node, name, given }),
        1 => (0_usize..4, 0_u8..3, 0_u64..300).prop_map(|(node, user, for_ms)| Op::Reserve { node, user, for_ms }),
        3 => (pick(), pick()).prop_map(|(pick, victim)| Op::Preempt { pick, victim }),
        1 => (0_u8..3, 0_u32..3).prop_map(|(user, weight)| Op::Weigh { user, weight }),
        1 => (0_usize..4, 0_u8..3).prop_map(|(members, user)| Op::Group { members, user }),
        1 => (pick(), 0_u8..3).prop_map(|(pick, user)| Op::StopGroup { pick, user }),
    ]
}

fn pick<T>(mut items: Vec<T>, at: usize) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(at % items.len()))
}

fn some_experiment(state: &ClusterState, at: usize) -> ExperimentId {
    let ids = state
        .experiments()
        .map(|experiment| experiment.id)
        .collect();
    pick(ids, at).unwrap_or(ExperimentId::from_bits(9))
}

fn some_token(state: &ClusterState, at: usize, any_attempt: bool) -> AttemptToken {
    let tokens: Vec<_> = if any_attempt {
        let attempts = state
            .experiments()
            .flat_map(|experiment| &experiment.attempts);
        attempts.map(|attempt| attempt.token).collect()
    } else {
        state.active().map(|(_, attempt)| attempt.token).collect()
    };
    pick(tokens, at).unwrap_or(AttemptToken {
        incarnation: Incarnation(1),
        experiment: ExperimentId::from_bits(9),
        attempt: 1,
        placed_at: LogIndex(1),
    })
}

fn home(state: &ClusterState, token: &AttemptToken) -> types::NodeId {
    let experiment = state.experiment(token.experiment);
    let attempt = experiment.and_then(|experiment| {
        experiment
            .attempts
            .iter()
            .find(|attempt| attempt.token == *token)
    });
    attempt.map_or(node(3), |attempt| attempt.ranks[0].placement.node.clone())
}

/// One of its ranks, one that is not over if there is one.
fn some_rank(state: &ClusterState, token: &AttemptToken, at: usize) -> (u32, types::NodeId) {
    let experiment = state.experiment(token.experiment);
    let attempts = experiment.map_or(&[][..], |experiment| &experiment.attempts);
    let attempt = attempts.iter().find(|attempt| attempt.token == *token);
    let ranks = || {
        attempt
            .into_iter()
            .flat_map(|attempt| (0..).zip(&attempt.ranks))
    };
    let open = ranks().filter(|(_, rank)| !rank.ended).collect();
    let found = pick(open, at).or_else(|| pick(ranks().collect(), at));
    found.map_or((0, node(3)), |(number, rank)| {
        (number, rank.placement.node.clone())
    })
}

/// A gang's records are blobs.
fn end_of(state: &ClusterState, token: &AttemptToken, cause: CauseKind) -> AttemptReport {
    let is_gang = state
        .experiment(token.experiment)
        .is_some_and(|one| one.spec.resources.nodes > 1);
    match ended(cause) {
        AttemptReport::Ended { end, segments, .. } if is_gang => AttemptReport::Ended {
            end,
            segments,
            inline_records: bytes::Bytes::new(),
        },
        other => other,
    }
}

fn queue(number: u8) -> types::QueueName {
    queue_name(["default", "night", "urgent"][usize::from(number)])
}

fn cause(number: u8) -> CauseKind {
    match number {
        0 => CauseKind::Finished,
        1 => CauseKind::ExitCode(2),
        2 => CauseKind::NodeRestarted,
        3 => CauseKind::LeaseExpired,
        _ => CauseKind::Signal(9),
    }
}

#[expect(clippy::too_many_lines, reason = "one arm per command")]
fn command(state: &ClusterState, op: &Op) -> (Author, Command) {
    let by_node = Author::node(node(0));
    let command = match *op {
        Op::Submit {
            priority,
            queue: number,
            retries,
            nodes,
        } => {
            let mut spec = spec(["digits", "mnist"][usize::from(number % 2)]);
            spec.policy.priority = priority;
            spec.policy.retries_node_lost = retries;
            spec.policy.retries_failed = retries;
            spec.queue = queue(number);
            spec.resources.nodes = nodes;
            let user = author(["ann", "bob", "eve"][usize::from(number)], Role::Member);
            return (
                user,
                Command::SubmitExperiment(Box::new(SubmitExperiment { spec })),
            );
        }
        Op::Place {
            pick: at,
            node: number,
            cpu_milli,
            gpu,
            off_by,
        } => {
            let waiting = state
                .waiting()
                .map(|waiting| (waiting.id, waiting.attempts.len()))
                .collect();
            let (id, attempts) = pick(waiting, at).unwrap_or((ExperimentId::from_bits(9), 0));
            let share = gpu.map(|(index, milli)| GpuShare {
                index: GpuIndex(index),
                milli,
                vram_bytes: milli << 24,
            });
            let resources = Resources {
                cpu_milli,
                memory_bytes: 2 << 30,
                disk_bytes: 0,
                gpus: share.into_iter().collect(),
            };
            let attempt = u32::try_from(attempts).expect("few") + 1 + off_by;
            let ranks = state
                .experiment(id)
                .map_or(1, |one| one.spec.resources.nodes) as usize;
            let on = |rank: usize| (node((number + rank) % NODES.len()), resources.clone());
            place(id, attempt, &(0..ranks).map(on).collect::<Vec<_>>())
        }
        Op::Started { pick, wrong_node } => {
            let token = some_token(state, pick, false);
            let (rank, home) = some_rank(state, &token, pick);
            let from = if wrong_node { node(3) } else { home };
            let started = AttemptReport::Started { at: Timestamp(5) };
            report_rank((token, rank), from, started)
        }
        Op::Ended {
            pick,
            any_attempt,
            cause: number,
        } => {
            let token = some_token(state, pick, any_attempt);
            let (rank, home) = some_rank(state, &token, usize::from(number));
            report_rank((token, rank), home, end_of(state, &token, cause(number)))
        }
        Op::Lose { pick, any_attempt } => {
            let token = some_token(state, pick, any_attempt);
            let (rank, _) = some_rank(state, &token, pick);
            lose_rank((token, rank))
        }
        Op::Overuse {
            pick,
            used,
            is_over,
        } => {
            let token = some_token(state, pick, false);
            let (rank, home) = some_rank(state, &token, pick);
            let until = is_over.then_some(Timestamp(6));
            report_rank((token, rank), home, overuse(12, used, until))
        }
        Op::Extend { pick, seconds } => Command::ExtendLease(ExtendLease {
            token: some_token(state, pick, false),
            lease_ms: DurationMs::from_secs(seconds),
            reason: "long".to_owned(),
        }),
        Op::Seal { pick, byte } => Command::SealSegment(SealSegment {
            token: some_token(state, pick, false),
            segment: segment(byte),
        }),
        Op::Group { members, user } => {
            let user = author(["ann", "bob", "eve"][usize::from(user)], Role::Member);
            return (user, submit_group(members));
        }
        Op::StopGroup { pick: at, user } => {
            let user = author(["ann", "bob", "eve"][usize::from(user)], Role::Member);
            let groups = state.groups().map(|group| group.id).collect();
            let group = pick(groups, at).unwrap_or(GroupId::from_bits(9));
            return (user, Command::StopGroup(StopGroup { group }));
        }
        Op::Stop { pick, user } => {
            let user = author(["ann", "bob", "eve"][usize::from(user)], Role::Member);
            return (
                user,
                Command::StopExperiment(StopExperiment {
                    experiment: some_experiment(state, pick),
                }),
            );
        }
        Op::Move {
            pick,
            queue: number,
        } => Command::MoveExperiment(MoveExperiment {
            experiment: some_experiment(state, pick),
            queue: queue(number),
        }),
        Op::Queue {
            queue: number,
            priority,
        } => Command::CreateQueue(CreateQueue {
            name: queue(number),
            priority,
        }),
        Op::Token { number, uses } => Command::CreateJoinToken(CreateJoinToken {
            id: token_id(&format!("t-{number}")),
            verifier: [0; 32],
            uses,
            expires_at: Timestamp(1_500),
        }),
        Op::Revoke { number } => Command::RevokeToken(RevokeToken {
            id: token_id(&format!("t-{number}")),
        }),
        Op::Admit {
            token,
            node: number,
        } => Command::AdmitNode(AdmitNode {
            token: token_id(&format!("t-{token}")),
            node: node(number),
            facts: facts(NODES[number]),
        }),
        Op::Update { node: number, name } => Command::UpdateNode(UpdateNode {
            node: node(number),
            facts: facts(&format!("n{name}")),
        }),
        Op::Remove { node: number } => Command::RemoveNode(RemoveNode {
            node: node(number),
            reason: "test".to_owned(),
        }),
        Op::Drain {
            node: number,
            evacuate,
        } => Command::DrainNode(DrainNode {
            node: node(number),
            evacuate,
            reason: String::new(),
        }),
        Op::Undrain { node: number } => Command::UndrainNode(UndrainNode { node: node(number) }),
        Op::Pin { node: number, role } => Command::PinRole(PinRole {
            node: node(number),
            role: [None, Some(PinnedRole::Voter), Some(PinnedRole::Worker)][usize::from(role)],
        }),
        Op::Evict {
            node: number,
            is_dead,
        } => Command::EvictNode(Box::new(EvictNode {
            node: node(number),
            reason: "test".to_owned(),
            attempts: match is_dead {
                true => EvictedAttempts::Now(Vec::new()),
                false => EvictedAttempts::WhenLeasesEnd,
            },
        })),
        Op::Replace {
            token,
            node: number,
            old,
        } => Command::ReplaceNode(Box::new(ReplaceNode {
            admit: AdmitNode {
                token: token_id(&format!("t-{token}")),
                node: node(number),
                facts: facts(NODES[number]),
            },
            old: node(old),
        })),
        ref said => said_by_people(state, said),
    };
    (by_node, command)
}

/// What people say of what waits.
fn said_by_people(state: &ClusterState, op: &Op) -> Command {
    match *op {
        Op::Hold { pick, held: true } => Command::HoldExperiment(HoldExperiment {
            experiment: some_experiment(state, pick),
            reason: String::new(),
        }),
        Op::Hold { pick, held: false } => Command::ReleaseExperiment(ReleaseExperiment {
            experiment: some_experiment(state, pick),
        }),
        Op::Order { pick, place, other } => Command::OrderExperiment(OrderExperiment {
            experiment: some_experiment(state, pick),
            place: match place {
                0 => LinePlace::First,
                1 => LinePlace::Last,
                2 => LinePlace::Ordinary,
                _ => LinePlace::Before(some_experiment(state, other)),
            },
        }),
        Op::Priority { pick, priority } => Command::SetPriority(SetPriority {
            experiment: some_experiment(state, pick),
            priority,
        }),
        ref said => said_of_cluster(state, said),
    }
}

/// What people say of queues and machines, and what the leader does for those who wait.
fn said_of_cluster(state: &ClusterState, op: &Op) -> Command {
    match *op {
        Op::Shape {
            queue: number,
            gpus,
            experiments,
        } => Command::ShapeQueue(ShapeQueue {
            queue: queue(number),
            priority: None,
            weight: Some(2),
            limits: Some(Limits {
                gpu_milli: gpus,
                experiments,
                ..Limits::default()
            }),
            user_limits: None,
        }),
        Op::Pause {
            queue: number,
            paused,
        } => Command::PauseQueue(PauseQueue {
            queue: queue(number),
            paused,
            reason: String::new(),
        }),
        Op::Label {
            node: number,
            name,
            given,
        } => Command::LabelNode(LabelNode {
            node: node(number),
            labels: vec![(format!("l{name}"), given.then(|| "x".to_owned()))],
        }),
        Op::Reserve {
            node: number,
            user,
            for_ms,
        } => Command::ReserveNode(ReserveNode {
            node: node(number),
            reserved: Some((
                ["ann", "bob", "eve"][usize::from(user)].to_owned(),
                Timestamp(1_000 + for_ms),
            )),
        }),
        Op::Preempt { pick: at, victim } => {
            let waiting = state.waiting().map(|waiting| waiting.id).collect();
            let token = some_token(state, victim, false);
            Command::PreemptFor(Box::new(PreemptFor {
                beneficiary: pick(waiting, at).unwrap_or(ExperimentId::from_bits(9)),
                computed_at: LogIndex(1),
                places: vec![RankPlacement {
                    node: home(state, &token),
                    resources: resources(500),
                }],
                victims: vec![token],
                reason: "the test says so".to_owned(),
            }))
        }
        Op::Weigh { user, weight } => Command::WeighUser(WeighUser {
            user: ["ann", "bob", "eve"][usize::from(user)].to_owned(),
            weight,
        }),
        ref other => unreachable!("{other:?}"),
    }
}

fn booked_within(state: &ClusterState) -> Result<(), TestCaseError> {
    let total = capacity();
    for number in 0..NODES.len() {
        let booking = state.booking(&node(number));
        prop_assert!(
            booking.cpu_milli <= total.cpu_milli && booking.memory_bytes <= total.memory_bytes
        );
        for (index, (milli, vram)) in &booking.gpus {
            prop_assert!(*index < 2 && *milli <= 1_000 && *vram <= 24 << 30);
        }
    }
    Ok(())
}

/// Live experiments stay live or end, once; a token is placed once.
fn progress(before: &ClusterState, after: &ClusterState) -> Result<(), TestCaseError> {
    for old in before.experiments() {
        let Some(new) = after.experiment(old.id) else {
            continue;
        };
        prop_assert!(
            old.is_live() || !new.is_live(),
            "{} came back to life",
            old.id
        );
        prop_assert!(new.attempts.len() >= old.attempts.len());
        for (old, new) in old.attempts.iter().zip(&new.attempts) {
            prop_assert_eq!(old.token, new.token);
            prop_assert!(
                old.end.is_none() || old.end == new.end,
                "an end was rewritten"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_log_gives_the_same_sound_state_everywhere(ops in prop::collection::vec((op(), prop::option::weighted(0.3, 0_u64..20)), 1..60), cut in any::<prop::sample::Index>()) {
        let mut cluster = Cluster::founded();
        let mut outcomes: Vec<(RequestId, Outcome)> = Vec::new();
        for (op, sequence) in &ops {
            let (author, command) = command(&cluster.state, op);
            let request = sequence.map(|sequence| RequestId { session: [5; 16], sequence });
            let time = Timestamp(1_000 + cluster.log.len() as u64 * 7 % 600);
            let before = cluster.state.clone();
            let applied = cluster.entry(LogEntry { time, author, request, command });
            if let Err(why) = check_invariants(&cluster.state) {
                prop_assert!(false, "{why}");
            }
            booked_within(&cluster.state)?;
            progress(&before, &cluster.state)?;
            if let Some(request) = request {
                match outcomes.iter().find(|(known, _)| *known == request) {
                    Some((_, first)) => {
                        prop_assert_eq!(first, &applied.outcome);
                        prop_assert!(applied.events.is_empty());
                        prop_assert_eq!(before.ledger_head(), cluster.state.ledger_head());
                    }
                    None => outcomes.push((request, applied.outcome)),
                }
            }
        }
        // A replica that follows the log, by way of a snapshot somewhere, has the same bytes.
        let cut = cut.index(cluster.log.len());
        let mut replica = ClusterState::default();
        for (at, entry) in cluster.log.iter().enumerate() {
            if at == cut {
                let bytes = codec::encode(&replica);
                replica = codec::decode(&bytes, usize::MAX).expect("a snapshot decodes");
                prop_assert_eq!(codec::encode(&replica), bytes);
            }
            replica.apply(LogIndex(at as u64 + 1), entry);
        }
        prop_assert_eq!(codec::encode(&replica), codec::encode(&cluster.state));
        prop_assert_eq!(replica.state_hash(), cluster.state.state_hash());
    }
}
