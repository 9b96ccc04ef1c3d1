//! Each reason to refuse a node: the decision and what `why` says come from one value.

use scheduler::Verdict;
use state_machine::{Command, DrainNode, ReserveNode};
use types::{DurationMs, ResourceRequest, Timestamp};

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
    let anns = leader.submit_by("ann", ask(1, 1), types::Policy::default());
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
