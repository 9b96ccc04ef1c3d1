//! What people say of what waits: held, reordered, of another priority; queues that are paused and limited.

use state_machine::{
    ClusterState, Command, HoldExperiment, Limits, LinePlace, OrderExperiment, Outcome, PauseQueue,
    RefusalCode, ReleaseExperiment, SetPriority, ShapeQueue, WeighUser,
};
use types::{Author, CauseKind, ExperimentId, Role};

use crate::samples::{
    Cluster, author, ended, node, place, queue_name, refusal, report, resources, spec,
};

fn line(state: &ClusterState) -> Vec<ExperimentId> {
    state.waiting().map(|waiting| waiting.id).collect()
}

fn order(experiment: ExperimentId, place: LinePlace) -> Command {
    Command::OrderExperiment(OrderExperiment { experiment, place })
}

fn hold(experiment: ExperimentId) -> Command {
    Command::HoldExperiment(HoldExperiment {
        experiment,
        reason: "data is late".to_owned(),
    })
}

#[test]
fn a_held_experiment_is_not_placed_until_it_is_released() {
    let mut cluster = Cluster::founded();
    let id = cluster.submit(spec("digits"));
    let placement = place(id, 1, &[(node(0), resources(1_000))]);
    cluster.accept(hold(id));
    cluster.refuse(placement.clone(), RefusalCode::DoesNotFit);
    let held = cluster.state.experiment(id).unwrap();
    let why = cluster.state.held(held).unwrap();
    assert!(
        why.contains("data is late") && why.contains("muster release"),
        "{why}"
    );
    let release = || Command::ReleaseExperiment(ReleaseExperiment { experiment: id });
    cluster.accept(release());
    cluster.accept(release());
    cluster.accept(placement);
    cluster.refuse(hold(id), RefusalCode::NotWaiting);
}

#[test]
fn an_experiment_is_put_first_last_or_before_another() {
    let mut cluster = Cluster::founded();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| cluster.submit(spec(name)));
    cluster.accept(order(c, LinePlace::First));
    assert_eq!(line(&cluster.state), [c, a, b, d]);
    cluster.accept(order(d, LinePlace::First));
    assert_eq!(line(&cluster.state), [d, c, a, b]);
    cluster.accept(order(c, LinePlace::Last));
    assert_eq!(line(&cluster.state), [d, a, b, c]);
    cluster.accept(order(c, LinePlace::Before(b)));
    assert_eq!(line(&cluster.state), [d, a, c, b]);
    cluster.accept(order(b, LinePlace::Before(d)));
    assert_eq!(line(&cluster.state), [b, d, a, c]);
    for id in [a, b, c, d] {
        cluster.accept(order(id, LinePlace::Ordinary));
    }
    assert_eq!(line(&cluster.state), [a, b, c, d]);
    let other = ExperimentId::from_bits(9);
    cluster.refuse(order(a, LinePlace::Before(other)), RefusalCode::NotWaiting);
    cluster.refuse(order(a, LinePlace::Before(a)), RefusalCode::NotWaiting);
}

#[test]
fn a_member_puts_nothing_in_front_of_what_others_wait_for() {
    let mut cluster = Cluster::founded();
    let [ann, bob] = ["ann", "bob"].map(|user| author(user, Role::Member));
    let submit = |cluster: &mut Cluster, by: &Author, name| {
        let spec = spec(name);
        let command = Command::SubmitExperiment(Box::new(state_machine::SubmitExperiment { spec }));
        match cluster.by(by.clone(), command) {
            Outcome::Submitted(id) => id,
            other => unreachable!("{other:?}"),
        }
    };
    let first = submit(&mut cluster, &ann, "first");
    let second = submit(&mut cluster, &ann, "second");
    // As long as nobody else waits there it is her own affair.
    let outcome = cluster.by(ann.clone(), order(second, LinePlace::First));
    assert_eq!(refusal(&outcome), None, "{outcome:?}");
    let bobs = submit(&mut cluster, &bob, "bobs");
    for place in [LinePlace::First, LinePlace::Before(first)] {
        let outcome = cluster.by(bob.clone(), order(bobs, place));
        let Outcome::Refused(refused) = &outcome else {
            unreachable!("{outcome:?}");
        };
        assert_eq!(refused.code, RefusalCode::NotAllowed);
        assert!(refused.message.contains("muster priority"), "{refused:?}");
    }
    assert_eq!(line(&cluster.state), [second, first, bobs]);
    for place in [LinePlace::Last, LinePlace::Ordinary] {
        let outcome = cluster.by(ann.clone(), order(second, place));
        assert_eq!(refusal(&outcome), None, "{outcome:?}");
    }
    cluster.accept(order(bobs, LinePlace::First));
    assert_eq!(line(&cluster.state), [bobs, first, second]);
}

#[test]
fn nothing_is_put_before_one_of_another_class() {
    let mut cluster = Cluster::founded();
    let low = cluster.submit(spec("low"));
    let mut urgent = spec("urgent");
    urgent.policy.priority = 100;
    let urgent = cluster.submit(urgent);
    cluster.refuse(order(low, LinePlace::Before(urgent)), RefusalCode::Invalid);
    assert_eq!(line(&cluster.state), [urgent, low]);
}

#[test]
fn a_priority_changes_the_order_and_members_give_only_ordinary_ones() {
    let mut cluster = Cluster::founded();
    let ann = author("ann", Role::Member);
    let [a, b] = ["a", "b"].map(|name| cluster.submit(spec(name)));
    let priority = |experiment, priority| {
        Command::SetPriority(SetPriority {
            experiment,
            priority,
        })
    };
    cluster.accept(priority(b, 5));
    assert_eq!(line(&cluster.state), [b, a]);
    cluster.accept(priority(a, 100));
    assert_eq!(line(&cluster.state), [a, b]);
    let mut own = spec("own");
    own.policy.priority = 99;
    let submit =
        |spec| Command::SubmitExperiment(Box::new(state_machine::SubmitExperiment { spec }));
    assert_eq!(refusal(&cluster.by(ann.clone(), submit(own.clone()))), None);
    own.policy.priority = 100;
    let outcome = cluster.by(ann.clone(), submit(own));
    assert_eq!(
        refusal(&outcome),
        Some(RefusalCode::NotAllowed),
        "{outcome:?}"
    );
    let outcome = cluster.by(ann, priority(b, 1));
    assert_eq!(
        refusal(&outcome),
        Some(RefusalCode::NotAllowed),
        "{outcome:?}"
    );
}

#[test]
fn nothing_of_a_paused_queue_is_placed() {
    let mut cluster = Cluster::founded();
    let id = cluster.submit(spec("digits"));
    let pause = |paused| {
        Command::PauseQueue(PauseQueue {
            queue: queue_name("default"),
            paused,
            reason: "new switch".to_owned(),
        })
    };
    cluster.accept(pause(true));
    let placement = place(id, 1, &[(node(0), resources(1_000))]);
    cluster.refuse(placement.clone(), RefusalCode::DoesNotFit);
    let why = cluster.state.held(cluster.state.experiment(id).unwrap());
    assert!(why.unwrap().contains("muster queue resume default"));
    cluster.accept(pause(false));
    cluster.accept(placement);
}

#[test]
fn limits_of_a_queue_and_of_each_user_hold_until_something_ends() {
    let mut cluster = Cluster::founded();
    let shape = |limits, user_limits| {
        Command::ShapeQueue(ShapeQueue {
            queue: queue_name("default"),
            priority: None,
            weight: None,
            limits: Some(limits),
            user_limits: Some(user_limits),
        })
    };
    let one = Limits {
        experiments: 1,
        ..Limits::default()
    };
    let cpus = Limits {
        cpu_milli: 1_500,
        ..Limits::default()
    };
    for (limits, user_limits, says) in [
        (
            one,
            Limits::default(),
            "all of it hold 1 experiment at once, and 1 is held",
        ),
        (
            Limits::default(),
            one,
            "each user of it hold 1 experiment at once",
        ),
        (
            cpus,
            Limits::default(),
            "hold 1.5 cpus at once, and 1 is held",
        ),
    ] {
        cluster.accept(shape(limits, user_limits));
        let running = cluster.run(0);
        let id = cluster.submit(spec("second"));
        let placement = place(id, 1, &[(node(0), resources(1_000))]);
        cluster.refuse(placement.clone(), RefusalCode::DoesNotFit);
        let over = cluster
            .state
            .over_limit(cluster.state.experiment(id).unwrap());
        let over = over.expect("over the limit").to_string();
        assert!(over.contains(says), "{over}");
        cluster.accept(report(running, node(0), ended(CauseKind::Finished)));
        let token = cluster.place_again(id, 1, 0);
        cluster.accept(report(token, node(0), ended(CauseKind::Finished)));
    }
    assert_eq!(cluster.state.holdings().count(), 0);
}

#[test]
fn a_weight_of_nothing_and_a_change_of_nothing_are_refused() {
    let mut cluster = Cluster::founded();
    for weight in [Some(0), None] {
        let shape = Command::ShapeQueue(ShapeQueue {
            queue: queue_name("default"),
            priority: None,
            weight,
            limits: None,
            user_limits: None,
        });
        cluster.refuse(shape, RefusalCode::Invalid);
    }
    for (user, weight) in [("ann", 0), ("", 2), ("a b", 2), (&*"x".repeat(65), 2)] {
        let user = user.to_owned();
        cluster.refuse(
            Command::WeighUser(WeighUser { user, weight }),
            RefusalCode::Invalid,
        );
    }
}

#[test]
fn the_ledger_says_limits_in_words() {
    let mut cluster = Cluster::founded();
    cluster.accept(Command::ShapeQueue(ShapeQueue {
        queue: queue_name("default"),
        priority: None,
        weight: Some(2),
        limits: Some(Limits {
            experiments: 20,
            memory_bytes: 64 << 30,
            gpu_milli: 8_000,
            ..Limits::default()
        }),
        user_limits: None,
    }));
    let said = cluster
        .state
        .ledger()
        .last()
        .map(|entry| entry.detail.clone());
    assert_eq!(
        said.as_deref(),
        Some(
            "default: priority 0, weight 2, at once 20 experiments, 8 gpus, 65536 MiB memory; each user no limit"
        )
    );
}
