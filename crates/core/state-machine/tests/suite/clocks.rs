//! Times that nodes tell by wall clocks of their own, which may be off.

use bytes::Bytes;
use state_machine::{Attempt, AttemptEnd, AttemptReport};
use types::{AttemptToken, CauseKind, Timestamp};

use crate::samples::{Cluster, end, lose, node, report};

fn attempt(cluster: &Cluster, token: AttemptToken) -> &Attempt {
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    &experiment.attempts[token.attempt as usize - 1]
}

fn started_at(cluster: &Cluster, token: AttemptToken) -> Timestamp {
    attempt(cluster, token).ranks[0].started_at.unwrap()
}

fn start(at: Timestamp) -> AttemptReport {
    AttemptReport::Started { at }
}

fn end_at(at: Timestamp) -> AttemptReport {
    AttemptReport::Ended {
        end: AttemptEnd {
            at,
            ..end(CauseKind::Finished)
        },
        segments: Vec::new(),
        inline_records: Bytes::new(),
    }
}

#[test]
fn a_start_is_neither_before_its_placement_nor_after_the_time_of_the_log() {
    for told in [0, 1, u64::MAX] {
        let mut cluster = Cluster::founded();
        let token = cluster.run(1);
        let placed_at = attempt(&cluster, token).placed_at;
        cluster.run(0); // Time passes.
        cluster.accept(report(token, node(1), start(Timestamp(told))));
        let now = cluster.state.time();
        let expected = if told == u64::MAX { now } else { placed_at };
        assert!(placed_at < now);
        assert_eq!(started_at(&cluster, token), expected, "told {told}");
    }
}

#[test]
fn a_start_that_can_be_true_is_believed() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    let told = Timestamp(attempt(&cluster, token).placed_at.0 + 1);
    cluster.run(0);
    cluster.accept(report(token, node(1), start(told)));
    assert!(told < cluster.state.time());
    assert_eq!(started_at(&cluster, token), told);
    // The first word counts.
    cluster.accept(report(token, node(1), start(Timestamp(0))));
    assert_eq!(started_at(&cluster, token), told);
}

#[test]
fn an_end_is_neither_before_its_start_nor_after_the_time_of_the_log() {
    for is_late in [false, true] {
        for told in [0, u64::MAX] {
            let mut cluster = Cluster::founded();
            let token = cluster.run(1);
            cluster.accept(report(token, node(1), start(Timestamp(u64::MAX))));
            let started = started_at(&cluster, token);
            if is_late {
                cluster.accept(lose(token));
            }
            cluster.accept(report(token, node(1), end_at(Timestamp(told))));
            let now = cluster.state.time();
            let attempt = attempt(&cluster, token);
            let end = if is_late { &attempt.late } else { &attempt.end };
            let expected = if told == 0 { started } else { now };
            assert!(started < now);
            assert_eq!(end.as_ref().unwrap().at, expected, "told {told}");
        }
    }
}
