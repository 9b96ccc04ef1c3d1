//! What people decide about machines, and the ways out of the cluster.

use state_machine::{
    Action, AdmitNode, Command, CreateJoinToken, DrainNode, EvictNode, EvictedAttempts,
    ExperimentPhase, Outcome, PinRole, PinnedRole, RefusalCode, RemoveNode, ReplaceNode,
    UndrainNode, UpdateNode,
};
use types::{Cause, CauseKind, NodeId, Role, Timestamp};

use crate::samples::{
    Cluster, author, ended, facts, node, place, refusal, report, resources, segment, spec, token_id,
};

fn drain(number: usize, evacuate: bool) -> Command {
    Command::DrainNode(DrainNode {
        node: node(number),
        evacuate,
        reason: "new disk".to_owned(),
    })
}

fn undrain(number: usize) -> Command {
    Command::UndrainNode(UndrainNode { node: node(number) })
}

fn pin(number: usize, role: Option<PinnedRole>) -> Command {
    Command::PinRole(PinRole {
        node: node(number),
        role,
    })
}

fn remove(number: usize) -> Command {
    Command::RemoveNode(RemoveNode {
        node: node(number),
        reason: "sold".to_owned(),
    })
}

fn evict(number: usize, attempts: EvictedAttempts) -> Command {
    Command::EvictNode(Box::new(EvictNode {
        node: node(number),
        reason: "sold".to_owned(),
        attempts,
    }))
}

fn admit(token: &str, number: usize) -> AdmitNode {
    AdmitNode {
        token: token_id(token),
        node: node(number),
        facts: facts("nodec"),
    }
}

fn last_cause(cluster: &Cluster, id: types::ExperimentId) -> Cause {
    let experiment = cluster.state.experiment(id).unwrap();
    let ends = experiment.attempts.iter().rev();
    let end = ends.filter_map(|attempt| attempt.end.as_ref()).next();
    end.unwrap().cause.clone()
}

#[test]
fn a_drained_node_takes_nothing_new_until_it_is_in_use_again() {
    let mut cluster = Cluster::founded();
    let runs = cluster.run(1);
    let version = cluster.state.members_version();
    cluster.accept(drain(1, false));
    assert_eq!(
        cluster.state.members_version(),
        version,
        "who is in is as before"
    );
    let waits = cluster.submit(spec("waits"));
    let there = place(waits, 1, &[(node(1), resources(1_000))]);
    cluster.refuse(there.clone(), RefusalCode::DoesNotFit);
    let wanted = cluster.state.wanted_set(&node(1)).attempts;
    assert_eq!(wanted[0].stop_requested_by, None, "what runs there goes on");
    cluster.accept(report(runs, node(1), ended(CauseKind::Finished)));
    cluster.accept(undrain(1));
    cluster.accept(there);
    let before = cluster.state.ledger_head();
    cluster.accept(undrain(1));
    assert_eq!(cluster.state.ledger_head(), before, "nothing changed");
    cluster.refuse(drain(3, false), RefusalCode::UnknownNode);
    cluster.refuse(undrain(3), RefusalCode::UnknownNode);
}

#[test]
fn who_empties_a_node_moves_what_runs_and_blames_nobody() {
    let mut cluster = Cluster::founded();
    let mut patient = spec("moves");
    patient.policy.retries_node_lost = 0;
    patient.policy.retries_failed = 0;
    let id = cluster.submit(patient);
    let token = cluster.place_again(id, 1, 1);
    cluster.accept(drain(1, false));
    cluster.accept(drain(1, true));
    let wanted = cluster.state.wanted_set(&node(1)).attempts;
    let by = wanted[0].stop_requested_by.clone().unwrap();
    let stopped = ended(CauseKind::Stopped { by: by.clone() });
    cluster.accept(report(token, node(1), stopped));
    let experiment = cluster.state.experiment(id).unwrap();
    assert!(matches!(experiment.phase, ExperimentPhase::Queued { .. }));
    assert_eq!((experiment.nodes_lost(), experiment.own_failures()), (0, 0));
    assert_eq!(last_cause(&cluster, id).kind, CauseKind::Moved { by });
    // A stop that a person asked for is one, also there.
    let second = cluster.place_again(id, 2, 0);
    cluster.accept(drain(0, true));
    let stop = state_machine::StopExperiment { experiment: id };
    cluster.accept(Command::StopExperiment(stop));
    let stopped = ended(CauseKind::Stopped {
        by: "ann".to_owned(),
    });
    cluster.accept(report(second, node(0), stopped));
    let experiment = cluster.state.experiment(id).unwrap();
    assert!(matches!(experiment.phase, ExperimentPhase::Ended { .. }));
}

#[test]
fn an_end_of_its_own_on_a_node_that_gets_empty_is_its_own() {
    let mut cluster = Cluster::founded();
    let id = cluster.submit(spec("fails"));
    let token = cluster.place_again(id, 1, 1);
    cluster.accept(drain(1, true));
    cluster.accept(report(token, node(1), ended(CauseKind::ExitCode(3))));
    assert_eq!(last_cause(&cluster, id).kind, CauseKind::ExitCode(3));
    let finished = cluster.state.experiment(id).unwrap();
    assert!(matches!(finished.phase, ExperimentPhase::Ended { .. }));
}

#[test]
fn a_role_is_given_to_who_may_have_it() {
    let mut cluster = Cluster::founded();
    cluster.accept(pin(1, Some(PinnedRole::Voter)));
    let given = cluster.state.standing(&node(1)).pin.unwrap();
    assert_eq!(given.role, PinnedRole::Voter);
    cluster.accept(pin(1, None));
    assert_eq!(cluster.state.standing(&node(1)).pin, None);
    cluster.refuse(pin(3, None), RefusalCode::UnknownNode);
    let mut update = |change: fn(&mut types::NodeFacts)| {
        let mut facts = facts("nodeb");
        change(&mut facts);
        let node = node(1);
        cluster.accept(Command::UpdateNode(UpdateNode { node, facts }));
        cluster.refuse(pin(1, Some(PinnedRole::Voter)), RefusalCode::Invalid);
        cluster.accept(pin(1, Some(PinnedRole::Worker)));
        cluster.accept(pin(1, None));
    };
    update(|facts| facts.may_vote = false);
    update(|facts| facts.labels.push(("spot".to_owned(), "yes".to_owned())));
    cluster.accept(Command::UpdateNode(UpdateNode {
        node: node(1),
        facts: facts("nodeb"),
    }));
    cluster.accept(drain(1, false));
    cluster.refuse(pin(1, Some(PinnedRole::Voter)), RefusalCode::Invalid);
}

#[test]
fn only_admins_decide_about_machines_and_the_ledger_says_who() {
    let mut cluster = Cluster::founded();
    for command in [
        drain(1, true),
        undrain(1),
        pin(1, None),
        evict(1, EvictedAttempts::WhenLeasesEnd),
    ] {
        let outcome = cluster.by(author("ben", Role::Member), command);
        assert_eq!(refusal(&outcome), Some(RefusalCode::NotAllowed));
    }
    cluster.by(author("ann", Role::Admin), drain(1, false));
    let entry = cluster.state.ledger().last().unwrap().clone();
    assert_eq!(entry.action, Action::NodeDrained);
    assert!(entry.author.starts_with("ann@") && entry.detail.contains("new disk"));
}

#[test]
fn a_dead_machine_frees_its_attempts_at_once_with_what_was_saved() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.refuse(remove(1), RefusalCode::NotAllowed);
    let saved = vec![(token, vec![segment(7)])];
    cluster.accept(evict(1, EvictedAttempts::Now(saved)));
    let experiment = cluster.state.experiment(token.experiment).unwrap();
    assert!(matches!(experiment.phase, ExperimentPhase::Queued { .. }));
    assert_eq!(experiment.attempts[0].segments, [segment(7)]);
    let cause = last_cause(&cluster, token.experiment);
    assert_eq!(cause.kind, CauseKind::NodeLost);
    assert!(cause.evidence[0].contains("is dead"), "{cause:?}");
    cluster.place_again(token.experiment, 2, 0);
}

#[test]
fn a_machine_that_may_be_alive_keeps_its_attempts_until_their_leases_end() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(1);
    cluster.accept(evict(1, EvictedAttempts::WhenLeasesEnd));
    assert!(cluster.state.node(&node(1)).is_none());
    let (_, attempt) = cluster.state.active().next().unwrap();
    assert_eq!(attempt.token, token, "it may be running");
    cluster.accept(crate::samples::lose(token));
    cluster.place_again(token.experiment, 2, 0);
}

#[test]
fn who_was_taken_out_leaves_nothing_behind_and_never_comes_back() {
    let mut cluster = Cluster::founded();
    let mut there = author("root", Role::Admin);
    there.entry_node = node(1);
    let token = CreateJoinToken {
        id: token_id("t-7"),
        verifier: [1; 32],
        uses: 5,
        expires_at: Timestamp(900_000),
    };
    cluster.by(there, Command::CreateJoinToken(token));
    cluster.accept(pin(1, Some(PinnedRole::Voter)));
    let id = cluster.submit(spec("mirrored"));
    let mut command = place(id, 1, &[(node(0), resources(1_000))]);
    if let Command::PlaceAttempt(place) = &mut command {
        place.mirror = Some(node(1));
    }
    cluster.accept(command);
    cluster.accept(remove(1));

    assert!(
        cluster.state.join_token(&token_id("t-7")).is_none(),
        "copied, perhaps"
    );
    assert!(cluster.state.join_token(&token_id("t-1")).is_some());
    assert_eq!(cluster.state.standing(&node(1)).pin, None);
    let wanted = cluster.state.wanted_set(&node(0)).attempts;
    assert_eq!(wanted[0].mirror, None);
    let was = cluster.state.departure(&node(1)).unwrap();
    assert_eq!((was.name.as_str(), was.reason.as_str()), ("nodeb", "sold"));
    cluster.refuse(Command::AdmitNode(admit("t-1", 1)), RefusalCode::Removed);
    assert!(matches!(
        cluster.state.resolve_node("nodeb"),
        Err(state_machine::ResolveNodeError::Departed { .. })
    ));
    cluster.refuse(remove(0), RefusalCode::NotAllowed);
    cluster.refuse(
        evict(0, EvictedAttempts::WhenLeasesEnd),
        RefusalCode::NotAllowed,
    );
}

#[test]
fn a_machine_under_a_new_key_takes_its_old_identity_out_in_the_same_change() {
    let mut cluster = Cluster::founded();
    let replace = |token: &str| {
        Command::ReplaceNode(Box::new(ReplaceNode {
            admit: admit(token, 2),
            old: node(1),
        }))
    };
    cluster.refuse(replace("t-9"), RefusalCode::UnknownToken);
    assert!(cluster.state.node(&node(1)).is_some(), "not half");
    assert_eq!(cluster.accept(replace("t-1")), Outcome::Done);
    assert!(cluster.state.node(&node(1)).is_none());
    assert!(cluster.state.node(&node(2)).is_some());
    let was = cluster.state.departure(&node(1)).unwrap();
    assert!(
        was.reason.starts_with("joined again as nodec"),
        "{}",
        was.reason
    );
    cluster.accept(replace("t-1"));
    assert_eq!(cluster.state.nodes().count(), 2);
}

#[test]
fn nodes_are_found_by_name_id_and_unique_start() {
    let mut cluster = Cluster::founded();
    let find = |cluster: &Cluster, text: &str| cluster.state.resolve_node(text);
    let whole: NodeId = node(1);
    for text in ["nodeb", whole.as_str(), whole.short()] {
        assert_eq!(find(&cluster, text), Ok(node(1)), "{text}");
    }
    assert!(find(&cluster, "").is_err());
    assert!(find(&cluster, "other").is_err());
    let twin = UpdateNode {
        node: node(0),
        facts: facts("nodeb"),
    };
    cluster.accept(Command::UpdateNode(twin));
    let several = find(&cluster, "nodeb").unwrap_err().to_string();
    assert!(several.contains(node(0).as_str()), "{several}");
}
