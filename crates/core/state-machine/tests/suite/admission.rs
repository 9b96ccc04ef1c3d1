//! Tokens of people and words about strangers.

use state_machine::{
    Action, Command, Entrance, IssueUserToken, LogEntry, NoteRefusals, NoteTokenUses, Outcome,
    RefusalCode, RemoveUser, RevokeToken, StopExperiment,
};
use types::{Author, AuthorProof, ExperimentId, Role, Timestamp};

use crate::samples::{Cluster, author, node, refusal, token_id};

fn issue(id: &str, user: &str, expires_at: Option<u64>) -> Command {
    Command::IssueUserToken(IssueUserToken {
        id: token_id(id),
        secret_hash: [1; 32],
        user: user.to_owned(),
        role: Role::Member,
        expires_at: expires_at.map(Timestamp),
    })
}

/// The time of a cluster's state, where the tests' entries have none of their own.
fn now(cluster: &Cluster) -> u64 {
    cluster.state.time().0
}

fn at(cluster: &mut Cluster, time: u64, author: Author, command: Command) -> Outcome {
    let entry = LogEntry {
        time: Timestamp(time),
        author,
        request: None,
        command,
    };
    cluster.entry(entry).outcome
}

/// Ann, as the bearer of a token.
fn bearer(token: &str, role: Role) -> Author {
    Author {
        proof: AuthorProof::Token {
            token: token_id(token),
        },
        ..author("ann", role)
    }
}

fn stop() -> Command {
    Command::StopExperiment(StopExperiment {
        experiment: ExperimentId::from_bits(0),
    })
}

#[test]
fn a_user_token_has_a_new_name_and_an_end_in_the_future() {
    let mut cluster = Cluster::founded();
    let past = now(&cluster);
    cluster.refuse(issue("u-1", "ann", Some(past)), RefusalCode::Invalid);
    cluster.accept(issue("u-1", "ann", None));
    cluster.refuse(issue("u-1", "ann", None), RefusalCode::NameTaken);
    let terms = cluster.state.user_token_terms(&token_id("u-1"));
    assert_eq!((terms.expires_at, terms.last_used_at), (None, None));
    assert!(!terms.created_by.is_empty());
}

#[test]
fn a_revoked_or_expired_token_does_nothing_though_the_leader_let_it_through() {
    let mut cluster = Cluster::founded();
    let start = now(&cluster);
    cluster.accept(issue("u-1", "ann", Some(start + 1_000)));
    let mut outcome = |time, role| {
        let outcome = at(&mut cluster, time, bearer("u-1", role), stop());
        refusal(&outcome)
    };
    // There is no such experiment, so the token itself was good.
    assert_eq!(
        outcome(start + 999, Role::Member),
        Some(RefusalCode::UnknownExperiment)
    );
    assert_eq!(
        outcome(start + 999, Role::Admin),
        Some(RefusalCode::NotAllowed)
    );
    assert_eq!(
        outcome(start + 1_000, Role::Member),
        Some(RefusalCode::NotAllowed)
    );
    cluster.accept(issue("u-2", "ann", None));
    let revoke = Command::RevokeToken(RevokeToken {
        id: token_id("u-2"),
    });
    cluster.accept(revoke);
    let outcome = at(&mut cluster, start, bearer("u-2", Role::Member), stop());
    assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
}

#[test]
fn an_expired_token_is_forgotten_a_week_later_and_not_before() {
    let mut cluster = Cluster::founded();
    let start = now(&cluster);
    let week = 7 * 86_400_000;
    cluster.accept(issue("u-1", "ann", Some(start + 10)));
    let by = || author("root", Role::Admin);
    at(&mut cluster, start + week, by(), issue("u-2", "ben", None));
    assert!(cluster.state.user_token(&token_id("u-1")).is_some());
    at(
        &mut cluster,
        start + 10 + week,
        by(),
        issue("u-3", "ben", None),
    );
    assert!(cluster.state.user_token(&token_id("u-1")).is_none());
    assert!(cluster.state.user_token(&token_id("u-2")).is_some());
}

#[test]
fn a_removed_user_has_no_token_left_and_others_keep_theirs() {
    let mut cluster = Cluster::founded();
    for (id, user) in [("u-1", "ann"), ("u-2", "ann"), ("u-3", "ben")] {
        cluster.accept(issue(id, user, None));
    }
    let remove = || {
        Command::RemoveUser(RemoveUser {
            user: "ann".to_owned(),
        })
    };
    cluster.accept(remove());
    let left: Vec<_> = cluster
        .state
        .user_tokens()
        .map(|token| token.id.clone())
        .collect();
    assert_eq!(left, [token_id("u-3")]);
    let last = cluster.state.ledger().next_back().unwrap();
    assert_eq!(
        (last.action, last.detail.as_str()),
        (Action::UserRemoved, "ann: u-1, u-2")
    );
    cluster.refuse(remove(), RefusalCode::UnknownToken);
}

#[test]
fn the_last_use_of_a_token_never_goes_back_nor_ahead_of_the_clock() {
    let mut cluster = Cluster::founded();
    cluster.accept(issue("u-1", "ann", None));
    let start = now(&cluster);
    let mut note = |time: u64, used: u64| {
        let uses = vec![
            (token_id("u-1"), Timestamp(used)),
            (token_id("u-9"), Timestamp(used)),
        ];
        let command = Command::NoteTokenUses(NoteTokenUses { uses });
        at(&mut cluster, time, Author::node(node(1)), command);
        let terms = cluster.state.user_token_terms(&token_id("u-1"));
        terms.last_used_at.unwrap().0
    };
    assert_eq!(note(start + 100, start + 50), start + 50);
    assert_eq!(note(start + 200, start + 20), start + 50);
    assert_eq!(note(start + 300, u64::MAX), start + 300);
    let many = vec![(token_id("u-1"), Timestamp(0)); 1_025];
    let many = Command::NoteTokenUses(NoteTokenUses { uses: many });
    cluster.refuse(many, RefusalCode::Invalid);
}

#[test]
fn refusals_are_written_down_in_words_that_fit_a_line() {
    let mut cluster = Cluster::founded();
    let note = |source: &str| {
        Command::NoteRefusals(NoteRefusals {
            entrance: Entrance::Join,
            source: source.to_owned(),
            times: 20,
            locked_out_ms: 60_000,
        })
    };
    cluster.accept(note("192.0.2.7"));
    let last = cluster.state.ledger().next_back().unwrap();
    assert_eq!(last.action, Action::EntryRefused);
    assert_eq!(
        last.detail,
        "20 bad join tokens from 192.0.2.7: locked out for 60 s"
    );
    for bad in ["a\nb", "\u{1b}[31m", &"x".repeat(129)] {
        cluster.refuse(note(bad), RefusalCode::Invalid);
    }
}
