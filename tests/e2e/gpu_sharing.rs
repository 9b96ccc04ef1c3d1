//! Sharing of GPUs is placement plus a watch: who takes more than it was given is named and, by policy, ended; who lost
//! its GPU runs again on another. By a driver that says what a file says.

use std::fs;
use std::path::Path;

use fake_nvml::{Fake, Process, World};
use service::view::{ExperimentDetail, LedgerEntryView, SamplesView, WhyView};

use crate::gpus::{GIB, machine_with, wait_offered};
use crate::harness::{Lab, Node, PATIENCE, skip, wait_until};

/// Whether a node here may know whose GPU processes are.
fn sees_all_processes() -> bool {
    let namespace = fs::read_link("/proc/self/ns/pid").expect("the kernel tells");
    namespace.as_os_str() == "pid:[4026531836]"
}

/// One A10G, which two can share.
fn one_gpu() -> World {
    let mut world = World::named("4xa10g").expect("it is made");
    world.gpus.truncate(1);
    world
}

/// Submits something that says its process id and runs until a file is there, and waits for the id.
fn run(node: &Node, go: &Path, arguments: &[&str]) -> (String, u32) {
    let script = format!(
        "echo $$; while [ ! -e {} ]; do sleep 0.05; done; echo done",
        go.display()
    );
    let command = ["--", "sh", "-c", &script];
    let id = node.submit(&[arguments, &command].concat());
    node.wait_state(&id, &["running"]);
    (id.clone(), process_of(node, &id))
}

fn process_of(node: &Node, id: &str) -> u32 {
    wait_until(PATIENCE, "it has said its process id", || {
        let said = node.logs(id);
        said.lines().next().and_then(|line| line.parse().ok())
    })
}

/// From now on the processes hold so much of the first GPU.
fn hold(fake: &Fake, world: &mut World, held: &[(u32, u64)]) {
    let process = |(pid, vram_bytes): &(u32, u64)| Process {
        pid: *pid,
        vram_bytes: Some(*vram_bytes),
        sm_percent: 40,
        ..Process::default()
    };
    world.gpus[0].processes = held.iter().map(process).collect();
    world.gpus[0].vram_used_bytes = held.iter().map(|(_, bytes)| bytes).sum();
    fake.set(world).expect("the file is written");
}

fn warnings(node: &Node, id: &str) -> Vec<String> {
    let mut detail = node.show(id);
    detail.attempts.pop().expect("it was placed").warnings
}

fn overuse_lines(detail: &ExperimentDetail) -> Vec<&LedgerEntryView> {
    let history = detail.history.iter();
    history
        .filter(|entry| entry.action == "vram-overuse")
        .collect()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story, told from its beginning to its end"
)]
fn more_than_a_share_is_named_with_figures_where_people_look_and_goes_on_by_default() {
    if !sees_all_processes() {
        return skip("in a container a node does not know whose GPU processes are");
    }
    let lab = Lab::new();
    let mut world = one_gpu();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 1);
    let go = lab.path().join("go");
    let (greedy, its_pid) = run(&node, &go, &["--vram", "6GiB"]);
    let (modest, other_pid) = run(&node, &go, &["--vram", "8GiB"]);
    // Below their shares nobody says anything.
    hold(
        &fake,
        &mut world,
        &[(its_pid, 6 * GIB), (other_pid, 2 * GIB)],
    );
    wait_until(PATIENCE, "what they use is seen", || {
        let output = node.muster(&["--json", "usage", &modest]);
        let view: SamplesView = serde_json::from_str(&output.out).ok()?; // None is there in its first seconds.
        (view.summary?.peak_vram_bytes == Some(2 * GIB)).then_some(())
    });
    assert_eq!(warnings(&node, &greedy), Vec::<String>::new());

    hold(
        &fake,
        &mut world,
        &[(its_pid, 10 * GIB), (other_pid, 2 * GIB)],
    );
    let own = wait_until(PATIENCE, "the offender is named", || {
        warnings(&node, &greedy).pop()
    });
    let figures = "10 GiB of GPU 0 and was given 6 GiB (on a, for ";
    assert!(own.contains(figures) && own.contains("--vram"), "{own}");
    let neighbour = warnings(&node, &modest).pop().expect("it is at risk");
    let expected = format!("its neighbour {greedy}#1 holds {figures}");
    assert!(neighbour.starts_with(&expected), "{neighbour}");
    let detail = node.show(&greedy);
    let lines = overuse_lines(&detail);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let told = "attempt 1 holds 10 GiB of GPU 0 and was given 6 GiB; its node warns";
    assert_eq!(lines[0].detail, told);
    let pages = [
        vec!["show", &greedy],
        vec!["why", &greedy],
        vec!["usage", &greedy],
        vec!["show", &modest],
        vec!["why", &modest],
        vec!["usage", &modest],
        vec!["top"],
    ];
    for page in pages {
        let text = wait_until(PATIENCE, "the page has it", || {
            let output = node.muster(&page);
            (output.code == 0 && output.out.contains(figures)).then_some(output.out)
        });
        println!("$ muster {}\n{text}", page.join(" "));
    }
    let audit = node.muster(&["audit", "-e", &greedy]).success();
    assert!(audit.contains(told), "{audit}");
    let why: WhyView = node.ask(&["why", &modest]);
    assert_eq!(why.warnings.len(), 1, "{why:?}");

    // A warning ends nobody, and the next node process tells it no second time.
    node.kill();
    node.up(&[]);
    hold(
        &fake,
        &mut world,
        &[(its_pid, 11 * GIB), (other_pid, 2 * GIB)],
    );
    wait_until(PATIENCE, "the new node process sees it", || {
        let own = warnings(&node, &greedy).pop()?;
        own.contains("holds 11 GiB of GPU 0").then_some(())
    });
    assert_eq!(overuse_lines(&node.show(&greedy)).len(), 1);

    // Who asked to be ended for it is ended, and nobody else.
    let strict = ["--vram", "2GiB", "--vram-overuse", "stop"];
    let (strict, pid) = run(&node, &go, &strict);
    let held = [(its_pid, 11 * GIB), (other_pid, 2 * GIB), (pid, 3 * GIB)];
    hold(&fake, &mut world, &held);
    let cause = node.wait_end(&strict).cause.expect("it ended");
    assert_eq!(cause.kind, "vram-overuse");
    fs::write(&go, "").unwrap();
    for id in [&greedy, &modest] {
        assert_eq!(node.wait_end(id).summary.state, "finished");
    }
    let kept = warnings(&node, &greedy).pop().expect("it stays with it");
    assert!(
        kept.contains("held up to 11 GiB") && kept.contains("it ended so"),
        "{kept}"
    );
    assert_eq!(warnings(&node, &modest), Vec::<String>::new());
}

#[test]
fn by_the_policy_stop_the_offender_ends_with_figures_and_its_neighbours_go_on() {
    if !sees_all_processes() {
        return skip("in a container a node does not know whose GPU processes are");
    }
    let lab = Lab::new();
    let mut world = one_gpu();
    let (node, fake) = machine_with(&lab, &world, &["--vram-overuse", "stop"]);
    wait_offered(&node, 1);
    let go = lab.path().join("go");
    let (greedy, its_pid) = run(&node, &go, &["--gpus", "0.25"]);
    let (modest, other_pid) = run(&node, &go, &["--vram", "8GiB"]);
    let (idle, _) = run(&node, &go, &["--gpus", "0.1"]);
    hold(
        &fake,
        &mut world,
        &[(its_pid, 12 * GIB), (other_pid, 8 * GIB)],
    );
    let ended = node.wait_end(&greedy);
    assert_eq!(ended.summary.state, "failed");
    let cause = ended.cause.as_ref().expect("it ended");
    assert_eq!(cause.kind, "vram-overuse");
    let evidence = cause.evidence.join("\n");
    for part in ["12 GiB of GPU 0 and was given", "SIGTERM"] {
        assert!(evidence.contains(part), "{part:?} is not in\n{evidence}");
    }
    assert!(cause.advice[0].contains("--vram"), "{cause:?}");
    println!("{}", node.muster(&["show", &greedy]).success());
    assert_eq!(overuse_lines(&ended).len(), 1);
    fs::write(&go, "").unwrap();
    for id in [&modest, &idle] {
        assert_eq!(node.wait_end(id).summary.state, "finished");
        assert_eq!(overuse_lines(&node.show(id)).len(), 0);
    }

    // Who has the GPU alone may use all of it, whatever it said that it needs.
    fs::remove_file(&go).unwrap();
    hold(&fake, &mut world, &[]);
    let whole = ["--gpus", "1", "--vram", "4GiB"];
    let (alone, pid) = run(&node, &go, &whole);
    hold(&fake, &mut world, &[(pid, 22 * GIB)]);
    wait_until(PATIENCE, "its use is in its records", || {
        let output = node.muster(&["--json", "usage", &alone]);
        let view: SamplesView = serde_json::from_str(&output.out).ok()?; // None is there in its first seconds.
        (view.summary?.peak_vram_bytes == Some(22 * GIB)).then_some(())
    });
    fs::write(&go, "").unwrap();
    let ended = node.wait_end(&alone);
    assert_eq!(ended.summary.state, "finished", "{ended:?}");
    assert_eq!(warnings(&node, &alone), Vec::<String>::new());
}

#[test]
fn a_policy_that_nobody_knows_is_refused_by_node_and_submission() {
    let lab = Lab::new();
    let node = lab.machine("a");
    let said = node.up_in_vain(&["--new", "--vram-overuse", "kill"]);
    let said = said.failure(1);
    assert!(said.contains("write warn or stop"), "{said}");
    node.up(&["--new"]);
    let run = ["run", "--no-source", "--vram-overuse", "kill", "--", "true"];
    let said = node.muster(&run).failure(1);
    assert!(said.contains("write warn or stop"), "{said}");
}

#[test]
fn mig_instances_are_placed_on_by_their_size_and_seen_by_their_uuid() {
    let lab = Lab::new();
    let world = World::named("mig").unwrap();
    let (node, _fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 4);
    let [big, middle, small] = world.gpus[0].instances.as_slice() else {
        panic!("three instances")
    };
    // Somebody computes on the big one. What is asked for fits the middle one and not the small one.
    assert!(!big.processes.is_empty());
    let script = "echo $CUDA_VISIBLE_DEVICES; sleep 1000";
    let say = |arguments: &[&str]| {
        let command = ["--", "sh", "-c", script];
        let id = node.submit(&[arguments, &command].concat());
        wait_until(PATIENCE, "it says what it sees", || {
            let output = node.muster(&["logs", &id]);
            output.out.ends_with('\n').then_some(output.out)
        })
    };
    let model = "A100-SXM4-40GB MIG";
    let six = ["--gpu-model", model, "--vram", "6GiB"];
    assert_eq!(say(&six).trim(), middle.uuid);
    let any = ["--gpu-model", model, "--gpus", "1"];
    assert_eq!(say(&any).trim(), small.uuid);
    // Several GPUs are never instances: CUDA gives a process one.
    let two = node.submit(&["--gpus", "2", "--", "true"]);
    let why: WhyView = node.ask(&["why", &two]);
    assert!(!why.possible_ever, "{why:?}");
    let text = node.muster(&["why", &two]).success();
    assert!(text.contains("3 MIG instances do not count"), "{text}");
}

#[test]
fn who_shares_a_gpu_goes_through_mps_where_it_runs_and_nobody_else_does() {
    let lab = Lab::new();
    let pipes = lab.path().join("mps");
    let mut node = lab.machine("a");
    let variable = "CUDA_MPS_PIPE_DIRECTORY";
    node.variables = vec![(variable.to_owned(), pipes.display().to_string())];
    let settings = node.data().join("muster.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let gpu = "gpus = [{ model = \"A10G\", vram = \"24GiB\" }]\n";
    fs::write(&settings, text + gpu).unwrap();
    node.up(&["--new"]);
    let script = "echo ${CUDA_MPS_PIPE_DIRECTORY-none} ${CUDA_MPS_ACTIVE_THREAD_PERCENTAGE-none}";
    let say = |arguments: &[&str]| {
        let command = ["--", "sh", "-c", script];
        let id = node.submit(&[arguments, &command].concat());
        node.wait_end(&id);
        node.logs(&id).trim().to_owned()
    };
    assert_eq!(say(&["--gpus", "0.5"]), "none none", "no daemon is there");
    fs::create_dir(&pipes).unwrap();
    assert_eq!(say(&["--gpus", "0.5"]), format!("{} 50", pipes.display()));
    assert_eq!(say(&["--vram", "3GiB"]), format!("{} 13", pipes.display()));
    assert_eq!(say(&["--gpus", "1"]), "none none");
    assert_eq!(say(&[]), "none none");
    let own = [
        "--gpus",
        "0.5",
        "--env",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=9",
    ];
    assert_eq!(say(&own), format!("{} 9", pipes.display()));
}

/// The GPU of this experiment falls off the bus.
fn lose(fake: &Fake, world: &mut World, uuid: &str) -> usize {
    let gpus = &mut world.gpus;
    let place = gpus.iter().position(|gpu| gpu.uuid == uuid);
    let place = place.expect("it is one of them");
    gpus[place].xids.push(79);
    gpus[place].lost = true;
    fake.set(world).expect("the file is written");
    place
}

/// Runs twice at most: the first time until a file is there, and then it fails or not; the second time it succeeds.
fn twice(node: &Node, lab: &Lab, ending: &str) -> String {
    let (once, go) = (lab.path().join("once"), lab.path().join("go"));
    let script = format!(
        "echo gpu $CUDA_VISIBLE_DEVICES; [ -e {once} ] && exit 0; touch {once}; while [ ! -e {go} ]; do sleep 0.05; done; {ending}",
        once = once.display(),
        go = go.display(),
    );
    node.submit(&["--gpus", "1", "--", "sh", "-c", &script])
}

/// The uuids that the attempts of an experiment have printed.
fn seen(node: &Node, id: &str, attempt: &str) -> String {
    wait_until(PATIENCE, "it says which GPU it sees", || {
        let output = node.muster(&["logs", id, "--attempt", attempt]);
        let line = output.out.lines().next()?;
        Some(line.strip_prefix("gpu ")?.to_owned())
    })
}

#[test]
fn what_runs_on_a_gpu_that_falls_off_the_bus_is_ended_with_that_cause_and_goes_on_elsewhere() {
    let lab = Lab::new();
    let mut world = World::named("4xa10g").unwrap();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 4);
    let id = twice(&node, &lab, "true");
    let first = seen(&node, &id, "1");
    let place = lose(&fake, &mut world, &first);
    let detail = node.wait_end(&id);
    println!("{}", node.muster(&["show", &id]).success());
    assert_eq!(detail.summary.state, "finished", "{detail:?}");
    assert_eq!(detail.attempts.len(), 2, "{detail:?}");
    let cause = detail.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "gpu-failed");
    let expected = format!("GPU {place} failed: XID 79: the GPU has fallen off the bus");
    assert!(cause.text.starts_with(&expected), "{cause:?}");
    assert_ne!(seen(&node, &id, "2"), first, "it runs on another");
}

#[test]
fn a_program_that_dies_of_its_gpu_before_the_driver_tells_is_no_failure_of_its_own() {
    let lab = Lab::new();
    let mut world = World::named("4xa10g").unwrap();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 4);
    // No retries of its own: as `CUDA error: unspecified launch failure` ends most programs.
    let id = twice(&node, &lab, "echo CUDA error >&2; exit 7");
    let first = seen(&node, &id, "1");
    lose(&fake, &mut world, &first);
    fs::write(lab.path().join("go"), "").unwrap();
    let detail = node.wait_end(&id);
    assert_eq!(detail.summary.state, "finished", "{detail:?}");
    let cause = detail.attempts[0].cause.as_ref().unwrap();
    assert_eq!(cause.kind, "gpu-failed", "{cause:?}");
    let evidence = cause.evidence.join("\n");
    for part in [first.as_str(), "exit code 7", "stderr: CUDA error"] {
        assert!(evidence.contains(part), "{part:?} is not in\n{evidence}");
    }
    // One that fails on a sound GPU has only itself to blame.
    let own = node.submit(&["--gpus", "1", "--", "sh", "-c", "exit 7"]);
    let detail = node.wait_end(&own);
    assert_eq!(detail.summary.state, "failed");
    assert_eq!(detail.cause.unwrap().kind, "exit-code");
}
