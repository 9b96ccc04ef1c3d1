//! Each reason to refuse a node: the decision and what `why` says come from one value.

use scheduler::{Amounts, GpuShortfall, Shortfall, Verdict};
use state_machine::{Command, DrainNode, Limits, ReserveNode, ShapeQueue};
use types::{DurationMs, ExperimentId, Policy, ResourceRequest, Timestamp};

use crate::leader::{GIB, Leader, ask, ask_gpu, facts, id, report};

/// The request is placed nowhere, and the only node says why.
#[track_caller]
fn refused(mut leader: Leader, request: ResourceRequest, says: &str, lasting: bool) {
    let waiting = leader.submit(request);
    assert!(leader.round().is_empty());
    let node = leader.explain(waiting).nodes.swap_remove(0);
    let (lines, is_lasting) = match node.verdict {
        Verdict::Fits => (Vec::new(), false),
        Verdict::Short(lines) => (lines, false),
        Verdict::Impossible(lines) => (lines, true),
    };
    assert!(lines.iter().any(|line| line.contains(says)), "{lines:?}");
    assert_eq!(is_lasting, lasting, "{lines:?}");
}

fn one() -> Leader {
    Leader::of(vec![report("a", 4, 8, &[(80, 0), (80, 30)])])
}

#[test]
fn amounts_that_are_taken_and_amounts_that_there_never_are() {
    let taken = || {
        let mut leader = one();
        leader.submit(ask(3, 6));
        leader.place();
        leader
    };
    refused(
        taken(),
        ask(2, 1),
        "needs 2 cpus, has 1 of 4 free (booked by",
        false,
    );
    refused(
        taken(),
        ask(1, 4),
        "needs 4.0 GiB memory, has 2.0 GiB of 8.0 GiB free",
        false,
    );
    refused(one(), ask(5, 1), "needs 5 cpus, has 4 in all", true);
    refused(
        one(),
        ask(1, 9),
        "needs 9.0 GiB memory, has 8.0 GiB in all",
        true,
    );
    let disk = ResourceRequest {
        disk_bytes: 200 * GIB,
        ..ask(1, 1)
    };
    refused(
        one(),
        disk,
        "needs 200.0 GiB disk, has 100.0 GiB in all",
        true,
    );
}

#[test]
fn gpus_of_others_of_another_model_or_too_small() {
    refused(
        one(),
        ask_gpu(2_000, 0),
        "has 1 of 2 free (processes outside muster use 30.0 GiB",
        false,
    );
    refused(one(), ask_gpu(1_000, 90), "has 0 such in all", true);
    refused(one(), ask_gpu(3_000, 0), "has 2 such in all", true);
    let model = ResourceRequest {
        gpu_models: vec!["A100".to_owned()],
        ..ask_gpu(1_000, 0)
    };
    refused(one(), model, "has none of model A100", true);
    refused(
        Leader::of(vec![report("a", 4, 8, &[])]),
        ask_gpu(1_000, 0),
        "has none",
        true,
    );
}

#[test]
fn labels_silence_and_full_disks() {
    let labelled = ResourceRequest {
        constraints: vec![("rack".to_owned(), "7".to_owned())],
        ..ask(1, 1)
    };
    refused(one(), labelled, "has no label rack=7", true);
    let mut silent = one();
    silent.now = silent.now + DurationMs::from_secs(60);
    refused(silent, ask(1, 1), "is suspect", false);
    let mut full = report("a", 4, 8, &[]);
    full.refuses_work = true;
    full.warnings = vec!["the disk is full".to_owned()];
    refused(
        Leader::of(vec![full]),
        ask(1, 1),
        "refuses work: the disk is full",
        false,
    );
    let idle = types::NodeFacts {
        takes_work: false,
        ..facts("a")
    };
    let idle = Leader::with_facts(vec![report("a", 4, 8, &[])], vec![idle]);
    refused(idle, ask(1, 1), "takes no work", true);
}

#[test]
fn what_people_have_said_about_the_node() {
    let mut draining = one();
    draining.apply(Command::DrainNode(DrainNode {
        node: id("a"),
        evacuate: false,
        reason: String::new(),
    }));
    refused(draining, ask(1, 1), "is draining", false);
    let mut reserved = one();
    let until = Timestamp(reserved.now.0 + 3_600_000);
    reserved.apply(Command::ReserveNode(ReserveNode {
        node: id("a"),
        reserved: Some(("ann".to_owned(), until)),
    }));
    refused(
        reserved,
        ask(1, 1),
        "is reserved for ann for another 1 h",
        false,
    );
}

#[test]
fn a_reserved_node_is_used_by_whose_it_is() {
    let mut leader = one();
    let until = Timestamp(leader.now.0 + 3_600_000);
    leader.apply(Command::ReserveNode(ReserveNode {
        node: id("a"),
        reserved: Some(("ann".to_owned(), until)),
    }));
    leader.submit(ask(1, 1));
    let anns = leader.submit_by("ann", ask(1, 1), Policy::default());
    assert_eq!(leader.place().len(), 1);
    assert_eq!(leader.home(anns).as_deref(), Some("a"));
}

#[test]
fn mig_instances_serve_one_at_a_time_and_never_together() {
    let mut split = report("a", 4, 8, &[(20, 0), (10, 0), (40, 0)]);
    for (number, gpu) in split.gpus.iter_mut().enumerate().take(2) {
        gpu.uuid = format!("MIG-c6d4f1ef-0000-5000-8000-00000000000{number}");
    }
    let two = ask_gpu(2_000, 0);
    let says = "needs 2 gpus, has 1 such in all (2 MIG instances do not count: CUDA gives a process only one)";
    refused(Leader::of(vec![split.clone()]), two, says, true);
    let mut leader = Leader::of(vec![split]);
    leader.submit(ask_gpu(0, 15));
    let placed = leader.round().swap_remove(0);
    let share = placed.ranks[0].0.resources.gpus[0];
    let expected = (0, 15 * GIB);
    assert_eq!((share.index.0, share.vram_bytes), expected, "not the card");
}

/// A cluster, a request and its user: the only node refuses it for this reason and no other. A new reason does not compile
/// before it has a case here, and is not met before [`after`] leads to it.
fn case(reason: &Shortfall) -> (Leader, ResourceRequest, &'static str) {
    let plain = |leader| (leader, ask(1, 1), "bob");
    match reason {
        Shortfall::TakesNoWork => {
            let facts = types::NodeFacts {
                takes_work: false,
                ..facts("a")
            };
            plain(Leader::with_facts(
                vec![report("a", 4, 8, &[])],
                vec![facts],
            ))
        }
        Shortfall::Draining => {
            let mut leader = one();
            leader.apply(Command::DrainNode(DrainNode {
                node: id("a"),
                evacuate: false,
                reason: String::new(),
            }));
            plain(leader)
        }
        Shortfall::Refuses(why) => {
            let mut full = report("a", 4, 8, &[]);
            full.refuses_work = true;
            full.warnings = vec![why.clone()];
            plain(Leader::of(vec![full]))
        }
        Shortfall::Silent => {
            let mut leader = one();
            leader.now = leader.now + DurationMs::from_secs(60);
            plain(leader)
        }
        Shortfall::NeverReported => {
            let mut leader = one();
            leader.view.forget(&id("a"));
            plain(leader)
        }
        Shortfall::Reserved { user, left } => {
            let mut leader = one();
            let until = leader.now + *left;
            leader.apply(Command::ReserveNode(ReserveNode {
                node: id("a"),
                reserved: Some((user.clone(), until)),
            }));
            plain(leader)
        }
        Shortfall::TakenAlone => plain(with_one_placed(exclusive())),
        Shortfall::NotEmpty { .. } => (with_one_placed(ask(1, 1)), exclusive(), "bob"),
        Shortfall::KeptFor(_) => (with_one_in_front(), ask(1, 1), "head"),
        Shortfall::Label { name, value } => {
            let constraints = vec![(name.clone(), value.clone())];
            let request = ResourceRequest {
                constraints,
                ..ask(1, 1)
            };
            (one(), request, "bob")
        }
        Shortfall::Cpu(_) => (with_one_placed(ask(3, 1)), ask(2, 1), "bob"),
        Shortfall::Memory(_) => (with_one_placed(ask(1, 6)), ask(1, 4), "bob"),
        Shortfall::Disk(_) => {
            let request = ResourceRequest {
                disk_bytes: 200 * GIB,
                ..ask(1, 1)
            };
            (one(), request, "bob")
        }
        Shortfall::Gpu(_) => (one(), ask_gpu(2_000, 0), "bob"),
    }
}

/// The reason that is met next, with facts for [`case`] where it needs some.
fn after(reason: &Shortfall) -> Option<Shortfall> {
    let amounts = Amounts {
        need: 0,
        free: 0,
        total: 0,
    };
    let next = match reason {
        Shortfall::TakesNoWork => Shortfall::Draining,
        Shortfall::Draining => Shortfall::Refuses("the disk is full".to_owned()),
        Shortfall::Refuses(_) => Shortfall::Silent,
        Shortfall::Silent => Shortfall::NeverReported,
        Shortfall::NeverReported => Shortfall::Reserved {
            user: "ann".to_owned(),
            left: DurationMs::from_secs(3_600),
        },
        Shortfall::Reserved { .. } => Shortfall::TakenAlone,
        Shortfall::TakenAlone => Shortfall::NotEmpty { attempts: 1 },
        Shortfall::NotEmpty { .. } => Shortfall::KeptFor(ExperimentId::from_bits(0)),
        Shortfall::KeptFor(_) => Shortfall::Label {
            name: "rack".to_owned(),
            value: "7".to_owned(),
        },
        Shortfall::Label { .. } => Shortfall::Cpu(amounts),
        Shortfall::Cpu(_) => Shortfall::Memory(amounts),
        Shortfall::Memory(_) => Shortfall::Disk(amounts),
        Shortfall::Disk(_) => Shortfall::Gpu(GpuShortfall {
            need_milli: 0,
            need_vram_bytes: 0,
            need: 0,
            free: 0,
            suitable: 0,
            total: 0,
            instances: 0,
            models: Vec::new(),
            unbooked_vram_bytes: 0,
        }),
        Shortfall::Gpu(_) => return None,
    };
    Some(next)
}

fn exclusive() -> ResourceRequest {
    ResourceRequest {
        exclusive: true,
        ..ask(1, 1)
    }
}

fn with_one_placed(request: ResourceRequest) -> Leader {
    let mut leader = one();
    leader.submit(request);
    assert_eq!(leader.place().len(), 1);
    leader
}

/// Three cores are taken for an hour, and who is first in line waits for all four.
fn with_one_in_front() -> Leader {
    let timed = |seconds| Policy {
        time_limit_ms: DurationMs::from_secs(seconds),
        ..Policy::default()
    };
    let mut leader = one();
    leader.submit_with(ask(3, 1), timed(3_600));
    assert_eq!(leader.place().len(), 1);
    leader.submit_with(ask(4, 1), timed(3_600));
    leader
}

#[test]
fn every_reason_to_refuse_a_node_keeps_it_from_being_chosen_and_is_said_as_it_is() {
    let mut reason = Some(Shortfall::TakesNoWork);
    let mut met = 0;
    while let Some(expected) = reason {
        let (mut leader, request, user) = case(&expected);
        let waiting = leader.submit_by(user, request, Policy::default());
        let placed = leader.round();
        assert!(placed.is_empty(), "{expected:?}: {placed:?}");
        let node = leader.explain(waiting).nodes.swap_remove(0);
        let [found] = node.short.as_slice() else {
            panic!("{expected:?}: {:?}", node.short);
        };
        let same = std::mem::discriminant(found) == std::mem::discriminant(&expected);
        assert!(same, "{expected:?}: {found:?}");
        let (lines, is_lasting) = match node.verdict {
            Verdict::Fits => (Vec::new(), false),
            Verdict::Short(lines) => (lines, false),
            Verdict::Impossible(lines) => (lines, true),
        };
        assert_eq!(is_lasting, found.is_lasting(), "{found:?}");
        assert!(lines[0].starts_with(&found.to_string()), "{lines:?}");
        met += 1;
        reason = after(&expected);
    }
    assert_eq!(met, 14);
}

/// What `why` says of a limit, and what the decision does, for each kind of limit of a queue and of each of its users.
#[test]
fn every_limit_of_a_queue_keeps_what_passes_it_waiting_and_is_named() {
    let limits = [
        (
            Limits {
                experiments: 1,
                ..Limits::default()
            },
            "1 experiment at once, and 1 is held",
        ),
        (
            Limits {
                cpu_milli: 1_500,
                ..Limits::default()
            },
            "1.5 cpus at once, and 1 is held",
        ),
        (
            Limits {
                memory_bytes: GIB * 3 / 2,
                ..Limits::default()
            },
            "1536 MiB memory at once, and 1024 MiB are held",
        ),
        (
            Limits {
                gpu_milli: 1_000,
                ..Limits::default()
            },
            "1 gpu at once, and 0.5 are held",
        ),
    ];
    for (limit, says) in limits {
        for per_user in [false, true] {
            let mut leader = Leader::of(vec![report("a", 4, 8, &[(80, 0), (80, 0)])]);
            leader.apply(Command::ShapeQueue(ShapeQueue {
                queue: types::QueueName::default(),
                priority: None,
                weight: None,
                limits: (!per_user).then_some(limit),
                user_limits: per_user.then_some(limit),
            }));
            leader.submit(ask_gpu(500, 0));
            assert_eq!(leader.place().len(), 1);
            let waiting = leader.submit(ask_gpu(1_000, 0));
            assert!(leader.round().is_empty(), "{says}");
            let summary = leader.explain(waiting).summary;
            let whose = if per_user {
                "each user of it"
            } else {
                "all of it"
            };
            assert!(summary.contains(whose), "{summary}");
            assert!(summary.ends_with(says), "{summary}");
        }
    }
}
