//! A member that lies: it was let in by a token and speaks for others. What counts is the connection that it speaks on.

use service::view::LedgerEntryView;
use service::{PeerMessage, PeerReply};
use state_machine::{
    AttemptEnd, AttemptReport, Command, IssueUserToken, LoseAttempt, RemoveNode, ReportAttempt,
    SealSegment,
};
use types::{
    AttemptToken, Cause, CauseKind, DurationMs, Incarnation, JoinReply, JoinTokenText, LogIndex,
    NodeId, NodeReport, Role, SegmentRef, SegmentSummary, Timestamp, WantedSet, codec,
};

use crate::admission::Stranger;
use crate::harness::{Lab, Node, PATIENCE, counting, entries, wait_lines, wait_until};

/// The token of the only attempt on a node: the name of its directory.
fn token_of(node: &Node) -> AttemptToken {
    let directory = wait_until(PATIENCE, "an attempt's directory", || {
        entries(&node.data().join("attempts")).into_iter().next()
    });
    let name = directory
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let mut parts = name.split('-');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    AttemptToken {
        experiment: next().parse().unwrap(),
        attempt: next().parse().unwrap(),
        incarnation: Incarnation(next().parse().unwrap()),
        placed_at: LogIndex(next().parse().unwrap()),
    }
}

/// That an attempt went well.
fn success(token: AttemptToken, node: &NodeId) -> Command {
    let end = AttemptEnd {
        cause: Cause::new(CauseKind::Finished, vec!["believe me".to_owned()]),
        at: Timestamp(1),
        peak_memory_bytes: 0,
        peak_vram_bytes: 0,
        cpu_ms: DurationMs(0),
        tree_kill_method: String::new(),
        outputs: None,
    };
    Command::ReportAttempt(Box::new(ReportAttempt {
        token,
        node: node.clone(),
        rank: 0,
        report: AttemptReport::Ended {
            end,
            segments: Vec::new(),
            inline_records: "forged output".into(),
        },
    }))
}

/// All that it may try to get into the log.
fn lies(token: AttemptToken, own: &NodeId, victim: &NodeId) -> Vec<Command> {
    let segment = SegmentRef {
        rank: 0,
        hash: types::BlobHash([7; 32]),
        summary: SegmentSummary {
            first_sequence: 0,
            end_sequence: 1,
            bytes: 1,
            first_at: Timestamp(1),
            last_at: Timestamp(1),
        },
        copies: vec![own.clone()],
    };
    vec![
        success(token, victim),
        success(token, own),
        Command::SealSegment(SealSegment { token, segment }),
        Command::LoseAttempt(LoseAttempt {
            token,
            rank: 0,
            cause: Cause::new(CauseKind::NodeLost, Vec::new()),
            segments: Vec::new(),
        }),
        Command::RemoveNode(RemoveNode {
            node: victim.clone(),
            reason: "rival".to_owned(),
        }),
        Command::IssueUserToken(IssueUserToken {
            id: "t-00000001".parse().unwrap(),
            secret_hash: [0; 32],
            user: "mallory".to_owned(),
            role: Role::Admin,
            expires_at: None,
        }),
    ]
}

/// Row 34 of the table of faults.
#[test]
fn a_member_speaks_for_itself_only() {
    let lab = Lab::new();
    let a = lab.one();
    let stop = lab.path().join("stop");
    let id = a.submit(&["--", "sh", "-c", &counting(&stop)]);
    let lines = wait_lines(&a, &id, 3);
    let token = token_of(&a);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let liar = Stranger::new(&a, &lab.path().join("liar.key")).await;
        let ticket: JoinTokenText = a.first_token().parse().unwrap();
        let answer = liar.speak_to_the_door(liar.join_request(&ticket)).await;
        assert!(matches!(answer, JoinReply::Admitted { .. }), "{answer:?}");
        liar.take_for_member().await;
        let own = liar.network.handle.node_id().clone();
        for lie in lies(token, &own, &liar.target) {
            let answer = liar.ask(&PeerMessage::Propose(Box::new(lie.clone()))).await;
            assert!(
                matches!(answer, PeerReply::Propose(Err(_))),
                "{lie:?}: {answer:?}"
            );
        }
        // No lease for what runs elsewhere.
        let lease = PeerMessage::Lease {
            tokens: vec![token],
            members_version: 0,
        };
        let PeerReply::Lease(Ok(answer)) = liar.ask(&lease).await else {
            panic!("no lease answer");
        };
        assert!(
            answer.granted.is_empty() && answer.refused.len() == 1,
            "{answer:?}"
        );
        assert!(answer.wanted.attempts.is_empty(), "{answer:?}");
        // Nobody who never leads says what a node is to run.
        let nothing = WantedSet {
            incarnation: token.incarnation,
            index: LogIndex(u64::MAX / 2),
            attempts: Vec::new(),
        };
        liar.ask(&PeerMessage::Wanted(nothing)).await;
        liar.network
            .handle
            .publish(forged_report(&liar.target))
            .await;
        // An answer after it: the report has been on the wire.
        liar.ask(&lease).await;
        liar.leave().await;
    });
    wait_lines(&a, &id, lines + 40);
    assert_eq!(a.show(&id).summary.state, "running");
    // The node still does as it is told.
    let next = a.submit(&["--", "echo", "next"]);
    assert_eq!(a.wait_end(&next).summary.state, "finished");
    std::fs::write(&stop, "").unwrap();
    let end = a.wait_end(&id);
    assert_eq!(end.summary.state, "finished");
    assert!(!a.logs(&id).contains("forged"));
    let entries: Vec<LedgerEntryView> = a.ask(&["audit", "--limit", "1000"]);
    let bad = ["attempt-lost", "node-removed", "user-token-created"];
    let found = entries
        .iter()
        .find(|entry| bad.contains(&entry.action.as_str()));
    assert!(found.is_none(), "{found:?}");
}

/// A report in the victim's name that it has no room for anything.
fn forged_report(victim: &NodeId) -> bytes::Bytes {
    let report = NodeReport {
        node: victim.clone(),
        node_started_at: Timestamp(u64::MAX / 2),
        sequence: u64::MAX / 2,
        taken_at: Timestamp(u64::MAX / 2),
        boot_id: 1,
        cpu_milli: 0,
        cpu_busy_milli: 0,
        memory_bytes: 0,
        memory_used_bytes: 0,
        disk_free_bytes: 0,
        gpus: Vec::new(),
        declared: Vec::new(),
        warnings: Vec::new(),
        refuses_work: true,
    };
    codec::encode(&report).into()
}
