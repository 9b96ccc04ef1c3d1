//! Several people on few machines: queues, priorities, fair shares, reservations, and who makes room for whom.

use std::fs;
use std::path::Path;
use std::process::Command;

use service::view::{QueueView, SubmitReply, TokenCreated, WhyView};

use crate::harness::{Lab, Node, PATIENCE, leader_and_others, run, wait_until};

/// A command that runs until a file is there.
fn until(file: &Path) -> String {
    format!("while [ ! -e {} ]; do sleep 0.05; done", file.display())
}

/// Submits something that takes all cores of a node until a file is there, and waits until it runs.
pub(crate) fn block(node: &Node, file: &Path, more: &[&str]) -> String {
    let command = until(file);
    let arguments = [
        &["--cpus", "4"][..],
        more,
        &["--", "sh", "-c", command.as_str()],
    ];
    let id = node.submit(&arguments.concat());
    node.wait_state(&id, &["running"]);
    id
}

fn why(node: &Node, id: &str) -> WhyView {
    node.ask(&["why", id])
}

/// Another person, who comes over TCP.
pub(crate) struct Person<'n> {
    node: &'n Node,
    token: String,
}

impl<'n> Person<'n> {
    pub(crate) fn of(node: &'n Node, name: &str) -> Self {
        let token: TokenCreated = node.ask(&["user", "add", name]);
        Self {
            node,
            token: token.token,
        }
    }

    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.program();
        command
            .env("MUSTER_TOKEN", &self.token)
            .args(["--node", &format!("http://{}", self.node.tcp())])
            .args(arguments);
        command
    }

    pub(crate) fn submit(&self, arguments: &[&str]) -> String {
        let whole = [&["--json", "run", "--no-source"], arguments].concat();
        let text = run(&mut self.client(&whole), "run").success();
        let reply: SubmitReply = serde_json::from_str(&text).unwrap();
        reply.id
    }
}

#[test]
fn a_paused_queue_places_nothing_until_it_is_resumed() {
    let lab = Lab::new();
    let a = lab.one();
    let pause = ["queue", "pause", "default", "--reason", "new disks"];
    let said = a.muster(&pause).success();
    assert!(
        said.contains("paused by") && said.contains("(new disks)"),
        "{said}"
    );
    let waiting = a.submit(&["--", "true"]);
    let summary = why(&a, &waiting).summary;
    assert!(
        summary.contains("@a (new disks)") && summary.contains("muster queue resume default"),
        "{summary}"
    );
    let queues: Vec<QueueView> = a.ask(&["queue", "ls"]);
    assert!(
        queues[0].paused.is_some() && queues[0].waiting == 1,
        "{queues:?}"
    );
    a.muster(&["queue", "resume", "default"]).success();
    assert_eq!(a.wait_end(&waiting).summary.state, "finished");
}

#[test]
fn a_held_experiment_lets_others_pass_until_it_is_released() {
    let lab = Lab::new();
    let a = lab.one();
    a.muster(&["queue", "pause", "default"]).success();
    let held = a.submit(&["--cpus", "4", "--", "true"]);
    let behind = a.submit(&["--cpus", "4", "--", "true"]);
    a.muster(&["hold", &held, "--reason", "data is not there"])
        .success();
    a.muster(&["queue", "resume", "default"]).success();
    a.wait_end(&behind);
    let view = why(&a, &held);
    assert!(
        view.state == "queued" && view.summary.contains("(data is not there)"),
        "{view:?}"
    );
    assert_eq!(view.estimate, "not before it may go on");
    a.muster(&["release", &held]).success();
    assert_eq!(a.wait_end(&held).summary.state, "finished");
    // What does not wait is not held.
    let said = a.muster(&["hold", &held]).failure(1);
    assert!(said.contains("is not waiting"), "{said}");
}

#[test]
fn priority_and_a_person_s_word_decide_who_is_next() {
    let lab = Lab::new();
    let a = lab.one();
    let go = lab.path().join("go");
    block(&a, &go, &[]);
    let [first, second] = [(); 2].map(|()| a.submit(&["--cpus", "4", "--", "true"]));
    assert_eq!(why(&a, &second).position, 2);
    a.muster(&["priority", &second, "5"]).success();
    let view = why(&a, &second);
    assert!(
        view.position == 1 && view.rule.contains("priority (5)"),
        "{view:?}"
    );
    a.muster(&["queue", "reorder", &first, "--first"]).success();
    let view = why(&a, &first);
    assert!(
        view.position == 1 && view.rule.contains("a person put it in front"),
        "{view:?}"
    );
    a.muster(&["queue", "reorder", &first, "--ordinary"])
        .success();
    assert_eq!(why(&a, &first).position, 2);
    // Who may take the places of others is an administrator's word.
    let ada = Person::of(&a, "ada");
    let own = ada.submit(&["--", "true"]);
    let refused = run(&mut ada.client(&["priority", &own, "100"]), "priority").failure(1);
    assert!(refused.contains("a member gives at most 99"), "{refused}");
    fs::write(&go, "").unwrap();
    let placed = |id| a.wait_end(id).attempts[0].placed_at;
    assert!(placed(&second) < placed(&first));
}

#[test]
fn a_reserved_node_takes_its_person_only() {
    let lab = Lab::new();
    let a = lab.one();
    let ada = Person::of(&a, "ada");
    let reserve = ["node", "reserve", "a", "--for", "ada", "--time", "1h"];
    let said = a.muster(&reserve).success();
    assert!(
        said.contains("reserved for ada for another 59 min") && said.contains("@a)"),
        "{said}"
    );
    let foreign = a.submit(&["--", "true"]);
    let own = ada.submit(&["--", "true"]);
    assert_eq!(a.wait_end(&own).summary.state, "finished");
    let view = why(&a, &foreign);
    let reasons = view.nodes[0].reasons.join("; ");
    assert!(
        view.state == "queued" && reasons.contains("is reserved for ada for another"),
        "{view:?}"
    );
    a.muster(&["node", "unreserve", "a"]).success();
    assert_eq!(a.wait_end(&foreign).summary.state, "finished");
}

#[test]
fn labels_that_people_give_decide_placement_and_outlive_a_restart() {
    let lab = Lab::new();
    let a = lab.one();
    let fast = a.submit(&["--constraint", "disk=fast", "--", "true"]);
    let view = why(&a, &fast);
    assert!(!view.possible_ever, "{view:?}");
    a.muster(&["node", "label", "a", "disk=fast", "pool="])
        .success();
    assert_eq!(a.wait_end(&fast).summary.state, "finished");
    a.terminate();
    a.up(&[]);
    let shown = a.muster(&["node", "label", "a"]).success();
    // The settings say pool=none; a person took it off.
    assert_eq!(shown, "machine=a\ndisk=fast\n");
    a.muster(&["node", "label", "a", "disk="]).success();
    let again = a.submit(&["--constraint", "disk=fast", "--", "true"]);
    assert!(!why(&a, &again).possible_ever);
}

#[test]
fn two_people_get_equal_shares_whoever_came_first() {
    let lab = Lab::new();
    let a = lab.one();
    let people = ["ada", "bob"].map(|name| Person::of(&a, name));
    a.muster(&["queue", "pause", "default"]).success();
    let go = lab.path().join("go");
    let command = until(&go);
    let job = ["--", "sh", "-c", command.as_str()];
    let [of_ada, of_bob] = people.map(|person| [(); 4].map(|()| person.submit(&job)));
    a.muster(&["queue", "resume", "default"]).success();
    let states = |ids: &[String; 4]| {
        let running = ids
            .iter()
            .filter(|id| a.show(id).summary.state == "running");
        running.count()
    };
    wait_until(PATIENCE, "two of each run", || {
        ((states(&of_ada), states(&of_bob)) == (2, 2)).then_some(())
    });
    let rule = why(&a, &of_ada[3]).rule;
    assert!(rule.contains("ada 50.0 %"), "{rule}");
    fs::write(&go, "").unwrap();
    for id in of_ada.iter().chain(&of_bob) {
        a.wait_end(id);
    }
}

#[test]
fn limits_of_a_queue_hold_and_say_so() {
    let lab = Lab::new();
    let a = lab.one();
    let said = a
        .muster(&[
            "queue",
            "set",
            "default",
            "--max-running",
            "1",
            "--weight",
            "3",
        ])
        .success();
    assert!(
        said.contains("weight 3") && said.contains("at once 1 experiment"),
        "{said}"
    );
    let go = lab.path().join("go");
    let command = until(&go);
    let first = a.submit(&["--", "sh", "-c", &command]);
    a.wait_state(&first, &["running"]);
    let second = a.submit(&["--", "true"]);
    let view = why(&a, &second);
    assert!(
        view.summary
            .contains("lets all of it hold 1 experiment at once"),
        "{view:?}"
    );
    assert_eq!(view.estimate, "not before others of the queue end");
    fs::write(&go, "").unwrap();
    a.wait_end(&second);
}

#[test]
fn a_higher_class_takes_a_place_after_a_grace_and_gives_it_back() {
    let lab = Lab::new();
    let a = lab.one();
    let (saved, go) = (lab.path().join("saved"), lab.path().join("go"));
    let script = format!(
        "trap 'sleep 1; echo saved >> {}; exit 0' TERM; {}",
        saved.display(),
        until(&go)
    );
    let low = a.submit(&["--cpus", "4", "--", "sh", "-c", &script]);
    a.wait_state(&low, &["running"]);
    // The shell has set its trap when it looks for the file.
    wait_until(PATIENCE, "its sleep runs", || {
        (a.processes().len() > 3).then_some(())
    });
    let high = a.submit(&["--cpus", "4", "--priority", "100", "--", "true"]);
    assert_eq!(a.wait_end(&high).summary.state, "finished");
    let detail = wait_until(PATIENCE, "it runs again", || {
        let detail = a.show(&low);
        (detail.attempts.len() == 2).then_some(detail)
    });
    assert_eq!(fs::read_to_string(&saved).unwrap(), "saved\n");
    let cause = detail.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "preempted", "{cause:?}");
    assert!(cause.text.contains(&high), "{cause:?}");
    fs::write(&go, "").unwrap();
    assert_eq!(a.wait_end(&low).summary.state, "finished");
}

#[test]
fn the_next_leader_ends_what_the_last_one_began_to_make_room() {
    let lab = Lab::new();
    let nodes = lab.three();
    let (leader, [first, second]) = leader_and_others(&nodes);
    let [ready, told, go] = ["ready", "told", "go"].map(|name| lab.path().join(name));
    let script = format!(
        "wait_for() {{ {}; }}; trap 'touch {}; wait_for; exit 0' TERM; touch {}; wait_for",
        until(&go),
        told.display(),
        ready.display(),
    );
    let there = format!("machine={}", first.name);
    let on = ["--constraint", there.as_str(), "--cpus", "4"];
    let submit = |more: &[&str]| second.submit(&[&on[..], more].concat());
    let low = submit(&["--", "sh", "-c", &script]);
    wait_until(PATIENCE, "it runs", || ready.exists().then_some(()));
    let high = submit(&["--priority", "100", "--", "true"]);
    wait_until(PATIENCE, "it is told to go", || told.exists().then_some(()));
    assert_eq!(second.show(&low).summary.state, "stopping");
    leader.kill();
    // It wants the same place, and whoever leads then knows for whom it is freed.
    let other = submit(&["--priority", "99", "--", "true"]);
    fs::write(&go, "").unwrap();
    let [low, high, other] = [low, high, other].map(|id| second.wait_end(&id));
    for detail in [&low, &high, &other] {
        assert_eq!(detail.summary.state, "finished", "{detail:?}");
    }
    assert_eq!(low.attempts.len(), 2);
    let cause = low.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "preempted", "{cause:?}");
    assert!(high.attempts[0].placed_at < other.attempts[0].placed_at);
}

#[test]
fn who_came_later_gets_a_fair_share_from_who_has_all_the_youngest_go() {
    let lab = Lab::new();
    let a = lab.machine("a");
    let file = a.data().join("muster.toml");
    let settings = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("preempt_after = \"1s\"\n{settings}")).unwrap();
    a.up(&["--new"]);
    let [ada, bob] = ["ada", "bob"].map(|name| Person::of(&a, name));
    let go = lab.path().join("go");
    let command = until(&go);
    let job = ["--", "sh", "-c", command.as_str()];
    // One after the other, so that it is known who is the youngest.
    let of_ada = [(); 4].map(|()| {
        let id = ada.submit(&job);
        a.wait_state(&id, &["running"]);
        id
    });
    let of_bob = [(); 3].map(|()| bob.submit(&job));
    for id in &of_bob[..2] {
        a.wait_state(id, &["running"]);
    }
    let kinds = |id: &String| {
        let attempts = a.show(id).attempts.into_iter();
        let causes = attempts.filter_map(|attempt| attempt.cause);
        causes.map(|cause| cause.kind).collect::<Vec<_>>()
    };
    // Half of the cores is Bob's, and no more: his third waits as do those of Ada's that went.
    assert_eq!(
        of_ada.each_ref().map(kinds),
        [vec![], vec![], vec!["preempted"], vec!["preempted"]].map(|kinds| kinds
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<String>>())
    );
    for id in [&of_ada[2], &of_ada[3], &of_bob[2]] {
        assert_eq!(a.show(id).summary.state, "queued");
    }
    let history = a.show(&of_ada[3]).history;
    let why = "bob has less than a fair share of queue default";
    assert!(
        history.iter().any(|entry| entry.detail.contains(why)),
        "{history:?}"
    );
    fs::write(&go, "").unwrap();
    for id in of_ada.iter().chain(&of_bob) {
        assert_eq!(a.wait_end(id).summary.state, "finished");
    }
}

#[test]
fn what_waits_says_its_place_the_rule_what_is_short_and_when_it_may_start() {
    let lab = Lab::new();
    let a = lab.one();
    let go = lab.path().join("go");
    let runs = block(&a, &go, &["--time", "10m"]);
    a.submit(&["--cpus", "3", "--", "true"]);
    let waits = a.submit(&["--cpus", "2", "--", "true"]);
    let text = a.muster(&["why", &waits]).success();
    for part in [
        "waits for room for 2 cpus",
        "1 is before it",
        "place 2 in the waiting order",
        "class 0; queue default has 100.0 % of the cluster now",
        "then by priority (0) and age",
        "ends by then, by its --time",
        &format!("needs 2 cpus, has 0 of 4 free (booked by {runs})"),
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let estimate = why(&a, &waits).estimate;
    assert!(estimate.starts_with("in 9 min"), "{estimate}");
    fs::write(&go, "").unwrap();
    a.wait_end(&waits);
}
