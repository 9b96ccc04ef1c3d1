//! What is used, learned, and given up for others; machines that carry labels or are one person's.

use state_machine::{
    AttemptReport, Command, Consumer, DrainNode, HOUR, HoldExperiment, LabelNode, LogEntry,
    Outcome, PreemptFor, RefusalCode, ReleaseExperiment, ReserveNode, Usage,
};
use types::{
    AttemptToken, Author, CauseKind, DurationMs, ExperimentId, GpuIndex, GpuShare, LogIndex,
    RankPlacement, Resources, Timestamp,
};

use crate::samples::{Cluster, ended, node, place, queue_name, report, resources, spec};

impl Cluster {
    /// Applies at a time of state.
    pub(crate) fn at(&mut self, time: u64, command: Command) -> Outcome {
        let author = Author::node(node(0));
        let applied = self.entry(LogEntry {
            time: Timestamp(time),
            author,
            request: None,
            command,
        });
        state_machine::check_invariants(&self.state).expect("the state agrees with itself");
        applied.outcome
    }
}

fn preempt(beneficiary: ExperimentId, victims: &[AttemptToken], cpu_milli: u64) -> Command {
    Command::PreemptFor(Box::new(PreemptFor {
        beneficiary,
        computed_at: LogIndex(1),
        places: vec![RankPlacement {
            node: node(0),
            resources: resources(cpu_milli),
        }],
        victims: victims.to_vec(),
        reason: "a higher class".to_owned(),
    }))
}

#[test]
fn what_an_attempt_held_is_charged_by_the_hour() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let placed = cluster.state.time().0;
    let end = placed + HOUR.0;
    cluster.at(end, report(token, node(0), ended(CauseKind::Finished)));
    let user = &cluster
        .state
        .experiment(token.experiment)
        .unwrap()
        .author
        .user;
    let hours = cluster.state.usage(&Consumer {
        queue: queue_name("default"),
        user: user.clone(),
    });
    assert_eq!(hours.len(), 2, "{hours:?}");
    let sum = hours
        .values()
        .fold(Usage::default(), |sum, more| sum.plus(*more));
    // Each hour's part is rounded down.
    assert!(
        (3_599_998..=3_600_000).contains(&sum.cpu_milli_s),
        "{sum:?}"
    );
    assert!(
        (1_024 * 3_599..=1_024 * 3_600).contains(&sum.memory_mib_s),
        "{sum:?}"
    );
    assert_eq!(sum.gpu_milli_s, 0);
    // A month and more later it is forgotten when somebody else is charged.
    let later = cluster.run(0);
    let end = end + 800 * HOUR.0;
    cluster.at(end, report(later, node(0), ended(CauseKind::Finished)));
    let kept: Vec<_> = cluster.state.consumers().collect();
    assert!(
        kept.iter()
            .all(|(_, hours)| hours.keys().all(|hour| *hour + 721 > end / HOUR.0))
    );
}

#[test]
fn successful_runs_teach_what_the_same_command_needs() {
    let mut cluster = Cluster::founded();
    let fingerprint = spec("digits").fingerprint();
    let failed = cluster.run(0);
    cluster.accept(report(failed, node(0), ended(CauseKind::ExitCode(1))));
    assert_eq!(cluster.state.lesson(&fingerprint), None);
    for runs in 1..3 {
        let token = cluster.run(0);
        let started = AttemptReport::Started { at: Timestamp(17) };
        cluster.accept(report(token, node(0), started));
        cluster.accept(report(token, node(0), ended(CauseKind::Finished)));
        let lesson = cluster.state.lesson(&fingerprint).unwrap();
        assert_eq!((lesson.runs, lesson.experiment), (runs, token.experiment));
        assert_eq!((lesson.peak_memory_bytes, lesson.peak_vram_bytes), (5, 4));
    }
    let mut other = spec("digits");
    other.command.push("--lr".to_owned());
    assert_eq!(cluster.state.lesson(&other.fingerprint()), None);
}

#[test]
fn memory_of_gpus_is_learned_from_runs_on_one_of_them() {
    let mut cluster = Cluster::founded();
    let fingerprint = spec("digits").fingerprint();
    let gpu = |index| GpuShare {
        index: GpuIndex(index),
        milli: 1_000,
        vram_bytes: 1,
    };
    // On two nobody knows how much of it was on which.
    for (gpus, peak) in [(vec![gpu(0), gpu(1)], 0), (vec![gpu(0)], 4)] {
        let id = cluster.submit(spec("digits"));
        let on = Resources {
            gpus,
            ..resources(1_000)
        };
        let Outcome::Placed(token) = cluster.accept(place(id, 1, &[(node(0), on)])) else {
            unreachable!("it is placed");
        };
        cluster.accept(report(token, node(0), ended(CauseKind::Finished)));
        let lesson = cluster.state.lesson(&fingerprint).unwrap();
        assert_eq!(lesson.peak_vram_bytes, peak);
    }
}

#[test]
fn a_victim_is_stopped_waits_again_and_its_place_is_kept() {
    let mut cluster = Cluster::founded();
    let victim = cluster.submit(spec("victim"));
    let on_all = |id, attempt| place(id, attempt, &[(node(0), resources(4_000))]);
    let Outcome::Placed(token) = cluster.accept(on_all(victim, 1)) else {
        unreachable!("it is placed");
    };
    let urgent = cluster.submit(spec("urgent"));
    let other = cluster.submit(spec("other"));
    cluster.accept(preempt(urgent, &[token], 3_000));
    cluster.refuse(preempt(urgent, &[token], 3_000), RefusalCode::NotWaiting);
    let wanted = cluster.state.wanted_set(&node(0));
    let by = wanted.attempts[0].stop_requested_by.as_deref().unwrap();
    assert!(by.contains(&urgent.to_string()), "{by}");
    let stopped = CauseKind::Stopped { by: by.to_owned() };
    cluster.accept(report(token, node(0), ended(stopped)));
    let back = cluster.state.experiment(victim).unwrap();
    assert!(back.is_live() && back.yields.is_none());
    let cause = &back.attempts[0].end.as_ref().unwrap().cause.kind;
    let by = urgent.to_string();
    assert_eq!(*cause, CauseKind::Preempted { by });
    assert_eq!(back.own_failures() + back.nodes_lost(), 0);
    // 1 of 4 cores is anybody's, 3 are kept for whom they were freed.
    let on = |id, attempt, cpus| place(id, attempt, &[(node(0), resources(cpus))]);
    cluster.refuse(on(other, 1, 2_000), RefusalCode::DoesNotFit);
    cluster.accept(on(other, 1, 1_000));
    cluster.accept(on(urgent, 1, 3_000));
    assert_eq!(cluster.state.kept_place(urgent), None);
}

#[test]
fn a_kept_place_is_given_up_after_a_time() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let urgent = cluster.submit(spec("urgent"));
    let other = cluster.submit(spec("other"));
    cluster.accept(preempt(urgent, &[token], 4_000));
    let stopped = CauseKind::Stopped { by: String::new() };
    cluster.accept(report(token, node(0), ended(stopped)));
    let until = cluster.state.kept_place(urgent).unwrap().until;
    let on_all = place(other, 1, &[(node(0), resources(4_000))]);
    cluster.refuse(on_all.clone(), RefusalCode::DoesNotFit);
    let outcome = cluster.at(until.0, on_all);
    assert!(matches!(outcome, Outcome::Placed(_)), "{outcome:?}");
}

#[test]
fn a_place_is_kept_for_nobody_who_may_not_run() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let urgent = cluster.submit(spec("urgent"));
    let other = cluster.submit(spec("other"));
    cluster.accept(preempt(urgent, &[token], 4_000));
    let stopped = CauseKind::Stopped { by: String::new() };
    cluster.accept(report(token, node(0), ended(stopped)));
    let on_all = place(other, 1, &[(node(0), resources(4_000))]);
    cluster.refuse(on_all.clone(), RefusalCode::DoesNotFit);
    cluster.accept(Command::HoldExperiment(HoldExperiment {
        experiment: urgent,
        reason: String::new(),
    }));
    assert_eq!(cluster.state.kept_place(urgent), None);
    cluster.accept(on_all);
}

#[test]
fn nobody_makes_room_for_one_that_may_not_run() {
    let mut cluster = Cluster::founded();
    let token = cluster.run(0);
    let urgent = cluster.submit(spec("urgent"));
    cluster.accept(Command::HoldExperiment(HoldExperiment {
        experiment: urgent,
        reason: String::new(),
    }));
    cluster.refuse(preempt(urgent, &[token], 1_000), RefusalCode::DoesNotFit);
    let drain = DrainNode {
        node: node(0),
        evacuate: false,
        reason: String::new(),
    };
    cluster.accept(Command::ReleaseExperiment(ReleaseExperiment {
        experiment: urgent,
    }));
    cluster.accept(Command::DrainNode(drain));
    cluster.refuse(preempt(urgent, &[token], 1_000), RefusalCode::DoesNotFit);
    let victim = cluster.state.experiment(token.experiment).unwrap();
    assert_eq!(victim.yields, None);
}

#[test]
fn nobody_holds_on_to_a_place_by_a_long_grace() {
    let mut cluster = Cluster::founded();
    let mut slow = spec("slow");
    slow.policy.stop_grace_ms = DurationMs(u64::MAX);
    let submit =
        |spec| Command::SubmitExperiment(Box::new(state_machine::SubmitExperiment { spec }));
    cluster.refuse(submit(slow.clone()), RefusalCode::Invalid);
    slow.policy.stop_grace_ms = DurationMs::from_secs(3_600);
    let slow = cluster.submit(slow);
    let on_all = place(slow, 1, &[(node(0), resources(4_000))]);
    let Outcome::Placed(token) = cluster.accept(on_all) else {
        unreachable!("it is placed");
    };
    let urgent = cluster.submit(spec("urgent"));
    cluster.accept(preempt(urgent, &[token], 4_000));
    let until = cluster.state.kept_place(urgent).unwrap().until;
    assert!(until.since(cluster.state.time()) < DurationMs(2 * HOUR.0));
}

#[test]
fn only_who_runs_there_can_make_room() {
    let mut cluster = Cluster::founded();
    let elsewhere = cluster.run(1);
    let urgent = cluster.submit(spec("urgent"));
    cluster.refuse(preempt(urgent, &[elsewhere], 1_000), RefusalCode::Stale);
    cluster.refuse(preempt(urgent, &[], 1_000), RefusalCode::Invalid);
}

#[test]
fn labels_of_people_are_laid_over_those_of_the_configuration() {
    let mut cluster = Cluster::founded();
    let own = cluster.state.node(&node(0)).unwrap().facts.labels.clone();
    let label = |labels: &[(&str, Option<&str>)]| {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
        Command::LabelNode(LabelNode {
            node: node(0),
            labels: labels.collect(),
        })
    };
    cluster.accept(label(&[("rack", Some("7"))]));
    let labels = |cluster: &Cluster| cluster.state.node(&node(0)).unwrap().labels.clone();
    let rack = ("rack".to_owned(), "7".to_owned());
    assert!(labels(&cluster).contains(&rack) && labels(&cluster).len() == own.len() + 1);
    // Also after the node has told its facts again.
    let mut facts = cluster.state.node(&node(0)).unwrap().facts.clone();
    facts.version = "new".to_owned();
    let update = state_machine::UpdateNode {
        node: node(0),
        facts,
    };
    cluster.accept(Command::UpdateNode(update));
    assert!(labels(&cluster).contains(&rack));
    cluster.accept(label(&[("rack", None)]));
    assert_eq!(labels(&cluster), own);
    if let Some((name, _)) = own.first() {
        cluster.accept(label(&[(name, None)]));
        assert!(labels(&cluster).iter().all(|(left, _)| left != name));
    }
    let (_, length) = cluster.state.ledger_head();
    cluster.accept(label(&[]));
    assert_eq!(cluster.state.ledger_head().1, length, "nothing was done");
    cluster.refuse(label(&[("a=b", Some("c"))]), RefusalCode::Invalid);
    cluster.refuse(label(&[("", Some("c"))]), RefusalCode::Invalid);
}

#[test]
fn a_reserved_machine_takes_attempts_of_one_person_until_the_time() {
    let mut cluster = Cluster::founded();
    let id = cluster.submit(spec("digits"));
    let until = Timestamp(cluster.state.time().0 + 60_000);
    let reserve = |reserved: Option<(&str, Timestamp)>| {
        Command::ReserveNode(ReserveNode {
            node: node(0),
            reserved: reserved.map(|(user, until)| (user.to_owned(), until)),
        })
    };
    cluster.refuse(reserve(Some(("ann", Timestamp(1)))), RefusalCode::Invalid);
    for name in ["", "a b", "ann\n", &"x".repeat(65)] {
        cluster.refuse(reserve(Some((name, until))), RefusalCode::Invalid);
    }
    cluster.accept(reserve(Some(("ann", until))));
    let placement = place(id, 1, &[(node(0), resources(1_000))]);
    cluster.refuse(placement.clone(), RefusalCode::DoesNotFit);
    let own = cluster.state.experiment(id).unwrap().author.user.clone();
    cluster.accept(reserve(Some((&own, until))));
    cluster.accept(placement);
    let other = cluster.submit(spec("other"));
    cluster.accept(reserve(Some(("ann", until))));
    let placement = place(other, 1, &[(node(0), resources(1_000))]);
    let outcome = cluster.at(until.0 + DurationMs(1).0, placement);
    assert!(matches!(outcome, Outcome::Placed(_)), "{outcome:?}");
}

#[test]
fn one_that_asked_to_be_alone_has_no_neighbour() {
    let mut cluster = Cluster::founded();
    let mut alone = spec("alone");
    alone.resources.exclusive = true;
    let alone = cluster.submit(alone);
    let other = cluster.submit(spec("other"));
    let on = || [(node(0), resources(500))];
    cluster.accept(place(alone, 1, &on()));
    cluster.refuse(place(other, 1, &on()), RefusalCode::DoesNotFit);
    let token = cluster.state.experiment(alone).unwrap().attempts[0].token;
    cluster.accept(report(token, node(0), ended(CauseKind::Finished)));
    cluster.accept(place(other, 1, &on()));
    let mut late = spec("late");
    late.resources.exclusive = true;
    let late = cluster.submit(late);
    cluster.refuse(place(late, 1, &on()), RefusalCode::DoesNotFit);
}
