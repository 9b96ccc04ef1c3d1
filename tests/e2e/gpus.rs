//! Machines with GPUs, by a driver that says what a file says.

use std::fs;

use fake_nvml::{Fake, Process, World};
use service::view::{CauseView, GpuDetail, MachinesView, NodesView, SamplesView, WhyView};

use crate::harness::{Lab, Node, PATIENCE, skip, wait_until};

pub(crate) const GIB: u64 = 1 << 30;

/// A node whose driver tells of this world, started with more flags.
pub(crate) fn machine_with(lab: &Lab, world: &World, flags: &[&str]) -> (Node, Fake) {
    let node = lab.machine("a");
    let directory = lab.path().join("driver");
    fs::create_dir(&directory).unwrap();
    let fake = Fake::new(&directory, world).unwrap();
    let file = node.data().join("muster.toml");
    let mut settings = fs::read_to_string(&file).unwrap();
    settings.push_str(&format!("nvml_path = \"{}\"\n", fake.library().display()));
    fs::write(file, settings).unwrap();
    node.up(&[&["--new"], flags].concat());
    (node, fake)
}

fn gpus(node: &Node) -> Vec<GpuDetail> {
    let mut view: MachinesView = node.ask(&["top"]);
    let sample = view.machines.remove(0).sample;
    sample.map(|sample| sample.gpus).unwrap_or_default()
}

/// Waits until the cluster, not only the machine, knows of so many GPUs with memory.
pub(crate) fn wait_offered(node: &Node, count: usize) {
    wait_until(PATIENCE, "the GPUs are offered", || {
        let view: NodesView = node.ask(&["nodes"]);
        let gpus = view.nodes[0].gpus.iter();
        let offered = gpus.filter(|gpu| gpu.vram_total_bytes > 0).count();
        (offered == count).then_some(())
    });
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story, told from its beginning to its end"
)]
fn work_goes_around_what_others_run_and_its_processes_are_told_apart() {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    if namespace.as_os_str() != "pid:[4026531836]" {
        return skip("in a container a node does not know whose GPU processes are");
    }
    let lab = Lab::new();
    let mut world = World::named("4xa10g").unwrap();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 4);
    let taken = world.gpus[1].uuid.clone();

    // Somebody computes on the second one, so that only three are free.
    let all = node.submit(&["--gpus", "4", "--", "true"]);
    let why = wait_until(PATIENCE, "it says what is short", || {
        let why: WhyView = node.ask(&["why", &all]);
        let reasons = why.nodes.iter().flat_map(|node| &node.reasons);
        let reasons = reasons.cloned().collect::<Vec<_>>().join("; ");
        reasons.contains("outside muster").then_some(reasons)
    });
    assert!(why.contains("has 3 of 4 free"), "{why}");
    let three = node.submit(&[
        "--gpus",
        "3",
        "--",
        "sh",
        "-c",
        "echo $$ $CUDA_VISIBLE_DEVICES; sleep 1000",
    ]);
    node.wait_state(&three, &["running"]);
    let said = wait_until(PATIENCE, "it has said which it sees", || {
        let said = node.logs(&three);
        said.ends_with('\n').then_some(said)
    });
    let (pid, visible) = said.trim().split_once(' ').unwrap();
    let mut visible: Vec<_> = visible.split(',').collect();
    visible.sort_unstable();
    let free = world.gpus.iter().map(|gpu| gpu.uuid.as_str());
    let free: Vec<_> = free.filter(|uuid| *uuid != taken).collect();
    assert_eq!(visible, free, "by uuid, and not the one that is taken");

    // What the experiment uses is its own; what a neighbour takes beside it is not.
    let mine = Process {
        pid: pid.parse().unwrap(),
        vram_bytes: Some(5 * GIB),
        sm_percent: 80,
        ..Process::default()
    };
    let theirs = Process {
        pid: std::process::id(),
        vram_bytes: Some(2 * GIB),
        ..Process::default()
    };
    world.gpus[0].vram_used_bytes = 7 * GIB;
    world.gpus[0].processes = vec![mine, theirs];
    fake.set(&world).unwrap();
    let gpu = wait_until(PATIENCE, "both are seen", || {
        let gpu = gpus(&node).swap_remove(0);
        let is_told_apart = gpu.vram_foreign_bytes == 2 * GIB;
        (gpu.processes.len() == 2 && is_told_apart).then_some(gpu)
    });
    let attempts: Vec<_> = gpu.processes.iter().map(|one| &one.attempt).collect();
    assert!(attempts.contains(&&Some(format!("{three}#1"))), "{gpu:?}");
    assert!(attempts.contains(&&None), "{gpu:?}");
    let summary = wait_until(PATIENCE, "its records have it", || {
        let output = node.muster(&["--json", "usage", &three]);
        let view: SamplesView = serde_json::from_str(&output.out).ok()?; // None is there in its first seconds.
        view.summary
            .filter(|summary| summary.gpu_utilisation_percent_max == Some(80))
    });
    assert_eq!(summary.peak_vram_bytes, Some(5 * GIB), "{summary:?}");
    let text = node.muster(&["top"]).success();
    for part in [
        "NVIDIA A10G",
        "OTHERS",
        "not of muster",
        &format!("{three}#1"),
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_offered_no_more_and_a_driver_that_hangs_holds_nobody_up() {
    let lab = Lab::new();
    let mut world = World::named("8xh100").unwrap();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 8);
    world.gpus[2].xids.push(79);
    world.gpus[2].lost = true;
    fake.set(&world).unwrap();
    wait_offered(&node, 7);
    let text = node.muster(&["top"]).success();
    assert!(text.contains("fallen off the bus"), "{text}");
    // It keeps its number, so that the others keep theirs.
    let seven = node.submit(&[
        "--gpus",
        "7",
        "--",
        "sh",
        "-c",
        "echo $CUDA_VISIBLE_DEVICES",
    ]);
    assert_eq!(node.wait_end(&seven).summary.state, "finished");
    let said = node.logs(&seven);
    assert_eq!(said.split(',').count(), 7, "{said}");
    assert!(!said.contains(&world.gpus[2].uuid), "{said}");

    world.hang = true;
    fake.set(&world).unwrap();
    let text = wait_until(PATIENCE, "the age of the figures is told", || {
        let text = node.muster(&["top"]).success();
        text.contains("s old").then_some(text)
    });
    assert!(
        text.contains("NVIDIA H100"),
        "the last known are shown: {text}"
    );
    let id = node.submit(&["--", "true"]);
    assert_eq!(node.wait_end(&id).summary.state, "finished");
    world.hang = false;
    fake.set(&world).unwrap();
    wait_until(PATIENCE, "figures go on", || {
        let text = node.muster(&["top"]).success();
        (!text.contains("s old")).then_some(())
    });
}

/// How the first attempt was explained.
fn first_cause(node: &Node, id: &str) -> CauseView {
    let cause = node.wait_end(id).attempts.swap_remove(0).cause;
    println!("{}", node.muster(&["show", id]).success());
    cause.expect("it ended")
}

/// Place of the GPU that a running experiment printed the uuid of.
fn place_of_its_gpu(node: &Node, id: &str, world: &World) -> usize {
    let uuid = wait_until(PATIENCE, "it has said which it sees", || {
        let said = node.logs(id);
        said.strip_suffix('\n').map(str::to_owned)
    });
    let place = world.gpus.iter().position(|gpu| gpu.uuid == uuid);
    place.unwrap_or_else(|| panic!("{uuid} is no GPU"))
}

#[test]
fn what_the_driver_reports_of_its_gpu_is_why_an_experiment_ended() {
    let lab = Lab::new();
    let mut world = World::named("8xh100").unwrap();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 8);
    let go = lab.path().join("go");
    let script = format!(
        "echo $CUDA_VISIBLE_DEVICES; while [ ! -e {} ]; do sleep 0.05; done; exit 1",
        go.display()
    );
    let wait = ["--gpus", "1", "--", "sh", "-c", &script];
    let (program, neighbour) = (node.submit(&wait), node.submit(&wait));
    let place = place_of_its_gpu(&node, &program, &world);
    place_of_its_gpu(&node, &neighbour, &world);
    // The second is its fault too, the third follows from any end.
    world.gpus[place].xids.extend([13, 43, 45]);
    fake.set(&world).unwrap();
    wait_until(PATIENCE, "the driver has told", || {
        (gpus(&node)[place].xids == [13, 43, 45]).then_some(())
    });
    fs::write(&go, "").unwrap();
    let cause = first_cause(&node, &program);
    assert_eq!((cause.kind.as_str(), cause.exit_code), ("gpu-xid", 1));
    assert!(
        cause.evidence[0].contains("XID 13: a kernel made"),
        "{cause:?}"
    );
    assert!(cause.advice[0].contains("compute-sanitizer"), "{cause:?}");
    let cause = first_cause(&node, &neighbour);
    assert_eq!(cause.kind, "exit-code", "{cause:?}");

    // One whose GPU falls off the bus runs again on another.
    fs::remove_file(&go).unwrap();
    let script = script.replace("exit 1", "[ $MUSTER_ATTEMPT -gt 1 ]");
    let lost = node.submit(&["--gpus", "1", "--", "sh", "-c", &script]);
    let place = place_of_its_gpu(&node, &lost, &world);
    world.gpus[place].xids.push(79);
    world.gpus[place].lost = true;
    fake.set(&world).unwrap();
    wait_offered(&node, 7);
    fs::write(&go, "").unwrap();
    let cause = first_cause(&node, &lost);
    assert_eq!(cause.kind, "gpu-failed", "{cause:?}");
    assert!(cause.text.contains("fallen off the bus"), "{cause:?}");
    assert_eq!(node.show(&lost).summary.state, "finished");
}

#[test]
fn an_experiment_that_finds_its_gpu_full_is_told_by_whom() {
    let lab = Lab::new();
    let mut world = World::named("4xa10g").unwrap();
    let (node, fake) = machine_with(&lab, &world, &[]);
    wait_offered(&node, 4);
    let go = lab.path().join("go");
    // What torch prints, with its own name for the exception.
    let script = format!(
        "import os, time
class OutOfMemoryError(RuntimeError):
    __module__ = 'torch'
print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)
while not os.path.exists('{}'):
    time.sleep(0.05)
raise OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22.04 GiB of which 1.04 GiB is free.')
",
        go.display()
    );
    let id = node.submit(&["--gpus", "1", "--", "python3", "-c", &script]);
    let place = place_of_its_gpu(&node, &id, &world);
    world.gpus[place].vram_used_bytes = 20 * GIB;
    world.gpus[place].processes = vec![Process {
        pid: std::process::id(),
        vram_bytes: Some(20 * GIB),
        ..Process::default()
    }];
    fake.set(&world).unwrap();
    wait_until(PATIENCE, "the neighbour is seen", || {
        (gpus(&node)[place].processes.len() == 1).then_some(())
    });
    fs::write(&go, "").unwrap();
    let cause = first_cause(&node, &id);
    assert_eq!(cause.kind, "cuda-out-of-memory", "{cause:?}");
    let evidence = cause.evidence.join("\n");
    for part in [
        "it needed 2.00 GiB, 1.04 GiB was free, the GPU has 22.04 GiB",
        &format!("pid {}", std::process::id()),
        "20.3 GiB of 22.4 GiB in use after it ended, by ",
    ] {
        assert!(evidence.contains(part), "{part:?} is not in\n{evidence}");
    }
}
