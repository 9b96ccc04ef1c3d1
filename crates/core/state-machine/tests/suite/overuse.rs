//! Attempts that hold more GPU memory than they were given: what is kept of it and what the ledger says.

use state_machine::{Action, RefusalCode, VramOveruse};
use types::{AttemptToken, CauseKind, GpuIndex, Timestamp};

use crate::samples::{Cluster, ended, lose, node, overuse, refusal, report};

const GIB: u64 = 1 << 30;

/// What the ledger says of over-use, oldest first.
fn told(cluster: &Cluster) -> Vec<String> {
    let entries = cluster.state.ledger();
    let told = entries.filter(|entry| entry.action == Action::VramOveruse);
    told.map(|entry| entry.detail.clone()).collect()
}

fn known(cluster: &Cluster, token: AttemptToken) -> Vec<VramOveruse> {
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    let attempt = experiment.attempts.last().unwrap();
    attempt.overuses().map(|(_, one)| one.clone()).collect()
}

#[test]
fn over_use_is_told_once_grows_silently_and_its_end_is_told() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let say = |cluster: &mut Cluster, used, until| {
        cluster.accept(report(token, node(0), overuse(12 * GIB, used, until)));
    };
    say(&mut cluster, 20 * GIB, None);
    say(&mut cluster, 30 * GIB, None);
    say(&mut cluster, 25 * GIB, None);
    let expected = "attempt 1 holds 20 GiB of GPU 0 and was given 12 GiB; its node warns";
    assert_eq!(told(&cluster), [expected]);
    assert_eq!(known(&cluster, token)[0].used_bytes, 30 * GIB);
    let until = Some(Timestamp(12));
    say(&mut cluster, 0, until);
    say(&mut cluster, 0, until);
    assert_eq!(told(&cluster).len(), 2, "an end is told once");
    let end = "attempt 1 keeps to what it was given again; it held up to 30 GiB of GPU 0 and was given 12 GiB";
    assert_eq!(told(&cluster)[1], end);
    assert!(known(&cluster, token)[0].until.is_some());
    say(&mut cluster, 40 * GIB, None);
    let again = known(&cluster, token);
    assert_eq!((again.len(), again[0].used_bytes), (1, 40 * GIB));
    assert_eq!((again[0].until, told(&cluster).len()), (None, 3));
}

#[test]
fn an_end_of_over_use_that_nobody_was_told_of_changes_nothing() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let end = overuse(12 * GIB, 0, Some(Timestamp(12)));
    cluster.accept(report(token, node(0), end));
    assert_eq!((known(&cluster, token), told(&cluster)), (vec![], vec![]));
}

#[test]
fn only_the_node_of_a_running_attempt_is_heard() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let over = || overuse(12 * GIB, 30 * GIB, None);
    let outcome = cluster.apply(report(token, node(1), over()));
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    cluster.accept(lose(token));
    let outcome = cluster.apply(report(token, node(0), over()));
    assert_eq!(refusal(&outcome), Some(RefusalCode::Stale));
    assert_eq!(told(&cluster), Vec::<String>::new());
}

#[test]
fn each_gpu_has_one_entry_and_nobody_fills_the_state() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let on = |gpu| {
        let state_machine::AttemptReport::VramOveruse(one) = overuse(0, GIB, None) else {
            unreachable!("it was made so");
        };
        let gpu = GpuIndex(gpu);
        report(
            token,
            node(0),
            state_machine::AttemptReport::VramOveruse(VramOveruse { gpu, ..one }),
        )
    };
    for gpu in 0..64 {
        cluster.accept(on(gpu));
    }
    cluster.refuse(on(64), RefusalCode::Invalid);
    assert_eq!(known(&cluster, token).len(), 64);
    assert!(told(&cluster)[63].contains("GPU 63 and was given none of it"));
}

#[test]
fn what_a_failed_gpu_ended_is_tried_again_as_after_a_lost_machine() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let failed = CauseKind::GpuFailed {
        gpu: 5,
        problem: "XID 79: the GPU has fallen off the bus".to_owned(),
    };
    cluster.accept(report(token, node(0), ended(failed)));
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(experiment.is_live(), "{experiment:?}");
    assert_eq!((experiment.nodes_lost(), experiment.own_failures()), (1, 0));
    let greedy = cluster.run(0);
    cluster.accept(report(greedy, node(0), ended(CauseKind::VramOveruse)));
    let experiment = cluster.state.experiment(greedy.experiment).unwrap();
    assert!(!experiment.is_live(), "its own failure");
}
