//! Between people: shares, limits, backfill, making room.

use proptest::prelude::*;
use state_machine::{Command, Limits, PauseQueue, ShapeQueue, WeighUser, check_invariants};
use types::{
    AttemptToken, CauseKind, DurationMs, ExperimentId, Policy, QueueName, ResourceRequest,
};

use crate::leader::{Leader, ask, ask_gpu, report};

const HOUR: DurationMs = DurationMs::from_secs(3_600);

fn timed(time_limit_ms: DurationMs) -> Policy {
    Policy {
        time_limit_ms,
        ..Policy::default()
    }
}

fn important(priority: i32) -> Policy {
    Policy {
        priority,
        ..Policy::default()
    }
}

impl Leader {
    /// Submits as this user; nothing is stated but the need.
    fn of_user(&mut self, user: &str, resources: ResourceRequest) -> ExperimentId {
        self.submit_by(user, resources, Policy::default())
    }

    fn placed(&mut self) -> Vec<ExperimentId> {
        self.place()
            .into_iter()
            .map(|token| token.experiment)
            .collect()
    }

    fn running(&self) -> Vec<AttemptToken> {
        self.state
            .active()
            .map(|(_, attempt)| attempt.token)
            .collect()
    }
}

#[test]
fn who_has_less_of_the_cluster_is_served_first_whoever_came_first() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    let [first, second, third] = [(); 3].map(|()| leader.of_user("ann", ask(1, 1)));
    let fourth = leader.of_user("ann", ask(1, 1));
    let bobs = leader.of_user("bob", ask(1, 1));
    assert_eq!(leader.placed(), [first, bobs, second, third]);
    let token = leader
        .running()
        .into_iter()
        .find(|token| token.experiment == bobs);
    let again = leader.of_user("bob", ask(1, 1));
    leader.finish(token.expect("it runs"));
    assert_eq!(leader.placed(), [again]);
    assert!(leader.state.experiment(fourth).unwrap().is_live());
}

#[test]
fn the_share_is_that_of_the_resource_of_which_most_is_used() {
    // Ann uses half of the memory and little else, Bob a quarter of the cores.
    let mut leader = Leader::of(vec![report("a", 8, 32, &[])]);
    leader.of_user("ann", ask(1, 16));
    leader.of_user("bob", ask(2, 1));
    assert_eq!(leader.placed().len(), 2);
    let anns = leader.of_user("ann", ask(1, 1));
    let bobs = leader.of_user("bob", ask(1, 1));
    assert_eq!(leader.placed(), [bobs, anns]);
}

#[test]
fn what_was_used_lately_counts_and_fades() {
    let mut leader = Leader::of(vec![report("a", 1, 4, &[])]);
    let anns = leader.of_user("ann", ask(1, 1));
    assert_eq!(leader.placed(), [anns]);
    leader.pass(DurationMs(100 * HOUR.0));
    leader.finish(leader.running()[0]);
    let anns = leader.of_user("ann", ask(1, 1));
    let bobs = leader.of_user("bob", ask(1, 1));
    assert_eq!(leader.placed(), [bobs]);
    // Within weeks Bob has used more than what is left of Ann's hundred hours.
    leader.pass(DurationMs(60 * HOUR.0));
    leader.finish(leader.running()[0]);
    assert_eq!(leader.placed(), [anns]);
    leader.pass(DurationMs(HOUR.0));
    leader.finish(leader.running()[0]);
    leader.pass(DurationMs(750 * HOUR.0));
    let anns = leader.of_user("ann", ask(1, 1));
    leader.of_user("bob", ask(1, 1));
    assert_eq!(
        leader.placed(),
        [anns],
        "after a month all is forgotten, and age decides"
    );
}

#[test]
fn a_user_or_queue_of_more_weight_gets_more() {
    let mut leader = Leader::of(vec![report("a", 6, 64, &[])]);
    leader.apply(Command::WeighUser(WeighUser {
        user: "bob".to_owned(),
        weight: 2,
    }));
    for _ in 0..6 {
        leader.of_user("ann", ask(1, 1));
        leader.of_user("bob", ask(1, 1));
    }
    leader.placed();
    let of = |user: &str| {
        let active = leader.state.active();
        active.filter(|(one, _)| one.author.user == user).count()
    };
    assert_eq!((of("ann"), of("bob")), (2, 4));
}

#[test]
fn a_limit_of_a_queue_holds_within_a_round_and_why_says_so() {
    let mut leader = Leader::of(vec![report("a", 8, 64, &[])]);
    leader.apply(Command::ShapeQueue(ShapeQueue {
        queue: QueueName::default(),
        priority: None,
        weight: None,
        limits: None,
        user_limits: Some(Limits {
            experiments: 2,
            ..Limits::default()
        }),
    }));
    let anns = [(); 3].map(|()| leader.of_user("ann", ask(1, 1)));
    leader.of_user("bob", ask(1, 1));
    assert_eq!(leader.placed().len(), 3);
    let summary = leader.explain(anns[2]).summary;
    assert!(
        summary.contains("each user of it hold 2 experiments at once, and 2 are held"),
        "{summary}"
    );
}

#[test]
fn a_paused_queue_keeps_no_node_waiting() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    leader.apply(Command::CreateQueue(state_machine::CreateQueue {
        name: "night".parse().unwrap(),
        priority: 5,
    }));
    let held = leader.of_user("ann", ask(4, 4));
    leader.apply_by(
        "ann",
        Command::MoveExperiment(state_machine::MoveExperiment {
            experiment: held,
            queue: "night".parse().unwrap(),
        }),
    );
    leader.apply(Command::PauseQueue(PauseQueue {
        queue: "night".parse().unwrap(),
        paused: true,
        reason: String::new(),
    }));
    let small = leader.of_user("bob", ask(1, 1));
    assert_eq!(leader.placed(), [small]);
    let summary = leader.explain(held).summary;
    assert!(summary.contains("muster queue resume night"), "{summary}");
}

#[test]
fn who_is_over_in_time_may_pass_the_first_in_line_and_nobody_else() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    leader.submit_by("ann", ask(3, 1), timed(HOUR));
    leader.place();
    let large = leader.submit_by("bob", ask(4, 1), timed(HOUR));
    assert!(leader.placed().is_empty());
    let long = leader.submit_by("cat", ask(1, 1), timed(DurationMs(2 * HOUR.0)));
    let unknown = leader.of_user("dan", ask(1, 1));
    assert!(leader.placed().is_empty());
    let short = leader.submit_by("eve", ask(1, 1), timed(DurationMs(HOUR.0 / 2)));
    assert_eq!(leader.placed(), [short]);
    for id in [long, unknown] {
        let why = leader.explain(id);
        let text = format!("{:?}", why.nodes[0].verdict);
        assert!(text.contains("needs 1 cpu"), "{text}");
    }
    let estimate = leader.explain(large).estimate;
    assert!(
        estimate.contains("in 1 h") && estimate.contains("on a"),
        "{estimate}"
    );
}

#[test]
fn who_fits_beside_the_first_in_line_may_pass_it() {
    let mut leader = Leader::of(vec![report("a", 8, 64, &[])]);
    leader.submit_by("ann", ask(6, 1), timed(HOUR));
    leader.place();
    leader.submit_by("bob", ask(7, 1), timed(HOUR));
    let beside = leader.of_user("cat", ask(1, 1));
    let more = leader.of_user("dan", ask(1, 1));
    assert_eq!(leader.placed(), [beside]);
    let text = format!("{:?}", leader.explain(more).nodes[0].verdict);
    assert!(text.contains("is before it in line"), "{text}");
}

#[test]
fn a_higher_class_takes_the_place_of_the_cheapest_and_keeps_it() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    let keeps = Policy {
        checkpoint_directory: "checkpoints".to_owned(),
        ..Policy::default()
    };
    let with_checkpoint = leader.submit_by("ann", ask(2, 1), keeps);
    leader.place();
    leader.pass(HOUR);
    let without = leader.of_user("bob", ask(2, 1));
    leader.place();
    let urgent = leader.submit_with(ask(2, 1), important(100));
    assert!(leader.placed().is_empty());
    let victims: Vec<_> = leader
        .preempt()
        .iter()
        .map(|token| token.experiment)
        .collect();
    assert_eq!(victims, [with_checkpoint], "its work is not lost");
    assert!(leader.preempt().is_empty(), "one place is enough");
    let token = leader
        .running()
        .into_iter()
        .find(|one| one.experiment == with_checkpoint)
        .unwrap();
    leader.of_user("eve", ask(2, 1));
    leader.end(
        token,
        CauseKind::Stopped {
            by: "the scheduler".to_owned(),
        },
    );
    assert_eq!(leader.placed(), [urgent], "nobody else gets the place");
    let state = &leader.state;
    assert!(
        state
            .experiment(without)
            .unwrap()
            .current_attempt()
            .is_some()
    );
    assert!(check_invariants(state).is_ok());
}

#[test]
fn no_more_go_than_are_needed() {
    let mut leader = Leader::of(vec![report("a", 8, 64, &[])]);
    let small = leader.of_user("ann", ask(1, 1));
    leader.place();
    leader.pass(DurationMs(1));
    let large = leader.of_user("ann", ask(7, 1));
    leader.place();
    leader.pass(DurationMs(1));
    leader.submit_with(ask(4, 1), important(100));
    // The youngest is the large one, and it is enough; the other way round the small one would not be.
    let victims: Vec<_> = leader
        .preempt()
        .iter()
        .map(|token| token.experiment)
        .collect();
    assert_eq!(victims, [large]);
    assert!(leader.state.experiment(small).unwrap().yields.is_none());
}

#[test]
fn of_several_machines_the_one_with_the_youngest_is_cleared() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[]), report("b", 4, 16, &[])]);
    let [old, young] = [(); 2].map(|()| {
        let id = leader.of_user("ann", ask(4, 1));
        assert_eq!(leader.placed(), [id]);
        leader.pass(HOUR);
        id
    });
    assert_eq!(leader.home(old).as_deref(), Some("a"));
    leader.submit_with(ask(4, 1), important(100));
    let victims = leader.preempt();
    assert_eq!(victims[0].experiment, young);
}

#[test]
fn within_a_class_only_who_has_less_than_a_fair_share_takes_from_who_has_more() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[]), report("b", 4, 16, &[])]);
    for _ in 0..8 {
        leader.of_user("ann", ask(1, 1));
    }
    assert_eq!(leader.placed().len(), 8);
    let bobs = leader.of_user("bob", ask(2, 1));
    assert!(leader.preempt().is_empty(), "at first it waits");
    leader.pass(DurationMs::from_secs(121));
    let victims = leader.preempt();
    assert_eq!(victims.len(), 2);
    for victim in victims {
        leader.end(
            victim,
            CauseKind::Stopped {
                by: "the scheduler".to_owned(),
            },
        );
    }
    assert_eq!(leader.placed(), [bobs]);
    // Ann has six of eight, and Bob asks for more than his half: he waits.
    leader.of_user("bob", ask(3, 1));
    leader.pass(DurationMs::from_secs(121));
    assert!(leader.preempt().is_empty());
    // Nobody takes from himself, nor who has less from who has as much.
    leader.of_user("ann", ask(1, 1));
    leader.pass(DurationMs::from_secs(121));
    assert!(leader.preempt().is_empty());
}

#[test]
fn a_queue_of_less_priority_takes_no_share_from_one_of_more() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    leader.apply(Command::CreateQueue(state_machine::CreateQueue {
        name: "first".parse().unwrap(),
        priority: 5,
    }));
    let into_first = |leader: &mut Leader, user: &str| {
        let id = leader.of_user(user, ask(1, 1));
        leader.apply_by(
            user,
            Command::MoveExperiment(state_machine::MoveExperiment {
                experiment: id,
                queue: "first".parse().unwrap(),
            }),
        );
    };
    for _ in 0..4 {
        into_first(&mut leader, "ann");
    }
    assert_eq!(leader.placed().len(), 4);
    leader.of_user("bob", ask(1, 1));
    leader.pass(DurationMs::from_secs(121));
    assert!(leader.preempt().is_empty(), "it would be served after them");
    into_first(&mut leader, "cat");
    leader.pass(DurationMs::from_secs(121));
    assert_eq!(leader.preempt().len(), 1);
}

#[test]
fn a_fair_share_takes_no_more_from_anybody_than_leaves_them_theirs() {
    // Four of twelve are a fair share: three of ann's may go, and one of cat's, although hers are the youngest.
    let mut leader = Leader::of(vec![report("a", 12, 48, &[])]);
    for user in ["ann", "cat"] {
        for _ in 0..if user == "ann" { 7 } else { 5 } {
            leader.of_user(user, ask(1, 1));
            leader.place();
            leader.pass(DurationMs(1));
        }
    }
    leader.of_user("bob", ask(4, 1));
    leader.pass(DurationMs::from_secs(121));
    let victims = leader.preempt();
    let left = |user: &str| {
        let active = leader
            .state
            .active()
            .filter(|(one, _)| one.author.user == user);
        active.filter(|(one, _)| one.yields.is_none()).count()
    };
    assert_eq!(victims.len(), 4);
    assert_eq!((left("ann"), left("cat")), (4, 4));
}

/// What two of one user may give up together does not hang on how their ids are ordered.
#[test]
fn the_youngest_go_first_for_a_fair_share_whatever_their_ids() {
    let disk = |cpus, gib: u64| ResourceRequest {
        disk_bytes: gib << 30,
        ..ask(cpus, 1)
    };
    for submitted_before in 0..8 {
        // 53 of 100 cores are ann's, and 50 a fair share: 48 are left to her, which is within the margin.
        let mut leader = Leader::of(vec![report("a", 100, 400, &[])]);
        for _ in 0..submitted_before {
            leader.of_user("cat", disk(1, 1));
            let token = leader.place()[0];
            leader.finish(token);
        }
        for (cpus, gib) in [(48, 90), (4, 5), (1, 5)] {
            leader.of_user("ann", disk(cpus, gib));
            assert_eq!(leader.place().len(), 1);
            leader.pass(DurationMs(1));
        }
        leader.of_user("bob", disk(1, 10));
        leader.pass(DurationMs::from_secs(121));
        assert_eq!(leader.preempt().len(), 2, "after {submitted_before}");
    }
}

#[test]
fn who_still_hears_that_it_must_go_counts_as_gone() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    for _ in 0..4 {
        leader.of_user("ann", ask(1, 1));
    }
    assert_eq!(leader.placed().len(), 4);
    for _ in 0..4 {
        leader.of_user("bob", ask(1, 1));
    }
    leader.pass(DurationMs::from_secs(121));
    // Nothing has ended yet when the leader looks again.
    let rounds = [(); 4].map(|()| leader.preempt().len());
    assert_eq!(rounds, [1, 1, 0, 0], "half is bob's fair share");
}

#[test]
fn what_is_freed_for_one_is_offered_to_nobody_else_meanwhile() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[])]);
    leader.of_user("ann", ask(3, 1));
    leader.place();
    let urgent = leader.submit_with(ask(4, 1), important(100));
    assert!(leader.placed().is_empty());
    let victims = leader.preempt();
    assert_eq!(victims.len(), 1);
    // One core is free, and kept.
    leader.of_user("bob", ask(1, 1));
    assert_eq!(leader.round(), []);
    let by = "the scheduler".to_owned();
    leader.end(victims[0], CauseKind::Stopped { by });
    assert_eq!(leader.placed(), [urgent]);
}

#[test]
fn whom_a_place_is_freed_for_may_go_elsewhere_when_it_cannot_have_it() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[]), report("b", 4, 16, &[])]);
    let blocks = [(); 2].map(|()| leader.of_user("ann", ask(4, 1)));
    assert_eq!(leader.placed(), blocks);
    let urgent = leader.submit_with(ask(4, 1), important(100));
    let victims = leader.preempt();
    assert_eq!(victims.len(), 1);
    let victim = leader.home(victims[0].experiment).unwrap();
    leader.apply(Command::DrainNode(state_machine::DrainNode {
        node: crate::leader::id(&victim),
        evacuate: false,
        reason: String::new(),
    }));
    let other = blocks
        .into_iter()
        .find(|block| *block != victims[0].experiment);
    let token = leader
        .running()
        .into_iter()
        .find(|token| Some(token.experiment) == other);
    leader.finish(token.expect("it runs"));
    assert_eq!(leader.placed(), [urgent]);
    assert_ne!(leader.home(urgent), Some(victim));
}

#[test]
fn an_experiment_that_wants_to_be_alone_is() {
    let alone = ResourceRequest {
        exclusive: true,
        ..ask(1, 1)
    };
    let mut leader = Leader::of(vec![report("a", 8, 64, &[]), report("b", 4, 16, &[])]);
    leader.of_user("ann", ask(1, 1));
    leader.place();
    assert_eq!(
        leader.home(leader.running()[0].experiment).as_deref(),
        Some("b")
    );
    let first = leader.of_user("bob", alone.clone());
    let second = leader.of_user("bob", alone);
    let small = leader.of_user("ann", ask(1, 1));
    let placed = leader.placed();
    assert!(placed.contains(&first) && placed.contains(&small) && placed.len() == 2);
    assert_eq!(leader.home(first).as_deref(), Some("a"));
    assert_eq!(leader.home(small).as_deref(), Some("b"));
    let text = format!("{:?}", leader.explain(second).nodes);
    assert!(
        text.contains("asked to be alone there")
            && text.contains("it asks to be alone: 2 run there"),
        "{text}"
    );
}

#[test]
fn nothing_is_placed_beside_one_that_is_alone_in_the_same_round() {
    let mut leader = Leader::of(vec![report("a", 8, 64, &[])]);
    let alone = leader.submit(ResourceRequest {
        exclusive: true,
        ..ask(1, 1)
    });
    leader.submit(ask(1, 1));
    let round = leader.round();
    let placed: Vec<_> = round.iter().map(|place| place.experiment).collect();
    assert_eq!(placed, [alone]);
}

#[test]
fn gpus_that_are_joined_are_taken_together() {
    let mut four = report("a", 32, 64, &[(80, 0); 4]);
    for (gpu, links) in four.gpus.iter_mut().zip([0b0100, 0b1000, 0b0001, 0b0010]) {
        gpu.links = links;
    }
    let mut leader = Leader::of(vec![four]);
    leader.submit(ask_gpu(2_000, 0));
    let place = leader.round().swap_remove(0);
    let taken: Vec<_> = place.ranks[0]
        .0
        .resources
        .gpus
        .iter()
        .map(|gpu| gpu.index.0)
        .collect();
    assert_eq!(taken, [0, 2]);
}

#[test]
fn memory_of_a_gpu_alone_books_its_part_of_one() {
    let mut leader = Leader::of(vec![report("a", 32, 64, &[(24, 0), (80, 0)])]);
    for _ in 0..3 {
        leader.submit(ask_gpu(0, 12));
    }
    let round = leader.round();
    let booked: Vec<_> = round
        .iter()
        .map(|place| place.ranks[0].0.resources.gpus[0])
        .collect();
    let on_small = booked.iter().filter(|gpu| gpu.index.0 == 0);
    assert!(on_small.clone().count() == 2 && on_small.clone().all(|gpu| gpu.milli == 500));
    assert!(
        booked
            .iter()
            .any(|gpu| gpu.index.0 == 1 && gpu.milli == 150)
    );
}

#[test]
fn a_preferred_node_is_taken_if_it_fits() {
    let mut leader = Leader::of(vec![report("a", 4, 16, &[]), report("b", 64, 256, &[])]);
    leader.prefer = vec![crate::leader::id("b")];
    let one = leader.submit(ask(1, 1));
    leader.place();
    assert_eq!(leader.home(one).as_deref(), Some("b"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Durations hold: whoever is first in line and does not fit starts no later than it could have when it was first,
    /// whatever came behind it.
    #[test]
    fn backfill_never_delays_the_first_in_line(
        running in prop::collection::vec((1_u64..4, 1_u64..20), 1..6),
        large in 4_u64..9,
        behind in prop::collection::vec((1_u64..5, prop::option::of(1_u64..40)), 0..12),
    ) {
        let mut leader = Leader::of(vec![report("a", 8, 64, &[])]);
        let minutes = |minutes: u64| DurationMs::from_secs(60 * minutes);
        for (cpus, time) in running {
            leader.submit_by("ann", ask(cpus, 1), timed(minutes(time)));
        }
        leader.place();
        let first = leader.submit_by("bob", ask(large, 1), timed(minutes(10)));
        leader.place();
        // As soon as enough of what runs is over.
        let mut ends: Vec<_> = leader.state.active().filter(|(one, _)| one.id != first).map(|(one, attempt)| {
            (attempt.placed_at.0 + one.spec.policy.time_limit_ms.0, one.spec.resources.cpu_milli)
        }).collect();
        ends.sort_unstable();
        let mut free = 8_000 - ends.iter().map(|(_, cpus)| cpus).sum::<u64>();
        let mut bound = leader.now.0;
        for (end, cpus) in &ends {
            if free >= large * 1_000 {
                break;
            }
            free += cpus;
            bound = *end;
        }
        for (cpus, time) in behind {
            let policy = time.map_or_else(Policy::default, |time| timed(minutes(time)));
            leader.submit_by("cat", ask(cpus, 1), policy);
            leader.place();
        }
        while leader.state.experiment(first).is_some_and(|one| one.attempts.is_empty()) {
            prop_assert!(leader.now.0 <= bound, "it could have started {} s ago", (leader.now.0 - bound) / 1_000);
            leader.pass(minutes(1));
            let over: Vec<_> = leader.state.active().filter(|(one, attempt)| {
                let duration = one.spec.policy.duration();
                duration.is_some_and(|duration| attempt.placed_at.0 + duration.0 <= leader.now.0)
            }).map(|(_, attempt)| attempt.token).collect();
            for token in over {
                leader.finish(token);
            }
            leader.place();
        }
    }

    /// Somebody who asks for a whole node is served although others always have something small to run.
    #[test]
    fn nobody_starves_behind_a_stream_of_small_ones(small in prop::collection::vec((1_u64..4, 1_u64..30), 60)) {
        let mut leader = Leader::of(vec![report("a", 4, 64, &[]), report("b", 4, 64, &[])]);
        let minutes = |minutes: u64| DurationMs::from_secs(60 * minutes);
        let mut stream = small.into_iter().cycle();
        let mut feed = |leader: &mut Leader| {
            while leader.state.waiting_count() < 8 {
                let (cpus, time) = stream.next().expect("it has no end");
                leader.submit_by("ann", ask(cpus, 1), timed(minutes(time)));
            }
        };
        feed(&mut leader);
        leader.place();
        let large = leader.submit_by("bob", ask(4, 1), timed(minutes(10)));
        for _ in 0..60 {
            feed(&mut leader);
            leader.place();
            if !leader.state.experiment(large).unwrap().attempts.is_empty() {
                return Ok(());
            }
            leader.pass(minutes(1));
            let over: Vec<_> = leader.state.active().filter(|(one, attempt)| {
                attempt.placed_at.0 + one.spec.policy.time_limit_ms.0 <= leader.now.0
            }).map(|(_, attempt)| attempt.token).collect();
            for token in over {
                leader.finish(token);
            }
        }
        prop_assert!(false, "it has waited for an hour, twice the longest of the others");
    }
}
