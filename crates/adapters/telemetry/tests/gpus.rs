//! GPUs through NVML's real C interface: worlds of the fake library, and the driver of this machine.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fake_nvml::{Fake, Process, World};
use telemetry::{Config, GpuDetail, Handle, MachineSample, OwnTree, start};
use tempfile::TempDir;

/// Far more than any of this takes.
const DEADLINE: Duration = Duration::from_secs(30);
const GIB: u64 = 1 << 30;

/// A node's telemetry over a fake driver.
struct Machine {
    fake: Fake,
    handle: Handle,
    run: tokio::task::JoinHandle<Result<(), telemetry::Error>>,
    _directory: TempDir,
}

impl Machine {
    fn start(world: &World) -> Self {
        Self::start_where(world, true)
    }

    /// On the machine itself, or in a container without its process ids.
    fn start_where(world: &World, sees_all_processes: bool) -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let fake = Fake::new(directory.path(), world).expect("the library was built");
        let (handle, run) = start(Config {
            interval: Duration::from_millis(10),
            gpu_retry: Duration::from_millis(100),
            nvml_path: Some(fake.library().to_path_buf()),
            sees_all_processes,
            disk_reserve_bytes: 0,
            ..Config::new(
                "12D3KooWnode".parse().expect("it is base58"),
                directory.path().to_path_buf(),
            )
        })
        .expect("telemetry starts");
        Self {
            fake,
            handle,
            run: tokio::spawn(run),
            _directory: directory,
        }
    }

    fn set(&self, world: &World) {
        self.fake.set(world).expect("the world can be written");
    }

    /// Waits for a look at the machine that is so.
    async fn until(&self, is_so: impl Fn(&MachineSample) -> bool) -> Arc<MachineSample> {
        let seen = async {
            loop {
                let machine = self.handle.machine();
                if is_so(&machine) {
                    return machine;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(DEADLINE, seen).await;
        assert!(seen.is_ok(), "never so: {:#?}", self.handle.machine());
        seen.expect("it was just looked at")
    }

    /// Waits for a report that is so.
    async fn told(&self, is_so: impl Fn(&[types::GpuReport]) -> bool) -> Vec<types::GpuReport> {
        let mut latest = self.handle.latest();
        let told = latest.wait_for(|report| is_so(&report.gpus));
        let told = tokio::time::timeout(DEADLINE, told).await;
        let told = told.expect("told in time").expect("the loop runs");
        told.gpus.clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.run.abort();
    }
}

fn world(name: &str) -> World {
    World::named(name).expect("it is in worlds/")
}

fn uuids(gpus: &[GpuDetail]) -> Vec<&str> {
    gpus.iter().map(|gpu| gpu.uuid.as_str()).collect()
}

/// A shell and a child of it.
struct Tree {
    shell: Child,
    child: u32,
}

impl Tree {
    fn grow() -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let output = shell.stdout.take().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it tells");
        Self {
            child: line.trim().parse().expect("a number"),
            shell,
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let child = rustix::process::Pid::from_raw(self.child.cast_signed()).expect("not 0");
        rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("it is ours");
        self.shell.wait().expect("it ends after its child");
    }
}

#[tokio::test]
async fn eight_gpus_tell_their_figures_and_links() {
    let mut world = world("8xh100");
    let gpu = &mut world.gpus[3];
    gpu.utilisation_percent = Some(90);
    gpu.vram_used_bytes = 20 * GIB;
    gpu.throttle_reasons = Some(0x4 | 0x40);
    let machine = Machine::start(&world);
    let seen = machine.until(|seen| seen.gpus.len() == 8).await;
    assert_eq!(seen.gpu_warnings, Vec::<String>::new());
    assert!(seen.gpus_age_ms.is_some());
    let expected = GpuDetail {
        uuid: world.gpus[3].uuid.clone(),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        pci_address: Some("00000000:61:00.0".to_owned()),
        vram_total_bytes: 85_520_809_984,
        // With what the driver keeps for itself.
        vram_used_bytes: 20 * GIB + 557_842_432,
        utilisation_percent: Some(90),
        memory_utilisation_percent: Some(0),
        power_milliwatts: Some(71_300),
        power_limit_milliwatts: Some(700_000),
        temperature_celsius: Some(34),
        sm_clock_mhz: Some(345),
        sm_clock_max_mhz: Some(1_980),
        memory_clock_mhz: Some(2_619),
        throttle_reasons: vec!["sw-power-cap".to_owned(), "hw-thermal-slowdown".to_owned()],
        ecc_corrected: Some(0),
        ecc_uncorrected: Some(0),
        retired_pages: Some(0),
        linked_to: vec![0, 1, 2, 4, 5, 6, 7],
        numa_node: Some(0),
        ..GpuDetail::default()
    };
    assert_eq!(seen.gpus[3], expected);
    let reports = machine.told(|gpus| gpus.len() == 8).await;
    assert_eq!(reports[3].links, 0b1111_0111);
    assert_eq!(
        (reports[0].numa_node, reports[7].numa_node),
        (Some(0), Some(1))
    );
}

#[tokio::test]
async fn process_below_the_root_of_an_attempt_is_its_own() {
    let tree = Tree::grow();
    let mut world = world("8xh100");
    for place in [3, 4] {
        world.gpus[place].vram_used_bytes = 20 * GIB;
        world.gpus[place].processes = vec![Process {
            pid: tree.child,
            vram_bytes: Some(20 * GIB),
            sm_percent: 88,
            draws: false,
        }];
    }
    let machine = Machine::start(&world);
    let reports = machine.told(|gpus| gpus.len() == 8).await;
    assert_eq!(
        reports[3].vram_foreign_bytes,
        20 * GIB,
        "nobody knows it yet"
    );
    let own = |attempt: &str, root_pid| OwnTree {
        attempt: attempt.to_owned(),
        root_pid,
    };
    let trees = vec![own("idle", u32::MAX), own("training", tree.shell.id())];
    machine.handle.set_trees(trees);
    machine.told(|gpus| gpus[3].vram_foreign_bytes == 0).await;
    let seen = machine.handle.machine();
    let [process] = seen.gpus[3].processes.as_slice() else {
        panic!("{:?}", seen.gpus[3].processes)
    };
    let expected = telemetry::GpuProcess {
        pid: tree.child,
        name: Some("sleep".to_owned()),
        user: process.user.clone(),
        vram_bytes: Some(20 * GIB),
        utilisation_percent: Some(88),
        attempt: Some("training".to_owned()),
    };
    assert_eq!(*process, expected);
    assert!(process.user.is_some());
    let uses = machine.handle.gpu_look().attempts;
    assert_eq!(uses[1].vram_by_gpu[&3], 20 * GIB);
    let uses: Vec<_> = uses
        .iter()
        .map(|uses| {
            (
                uses.attempt.as_str(),
                uses.vram_bytes,
                uses.utilisation_percent,
            )
        })
        .collect();
    assert_eq!(uses, [("idle", 0, 0), ("training", 40 * GIB, 176)]);
}

#[tokio::test]
async fn process_of_somebody_else_takes_its_memory_from_what_is_offered() {
    let mut world = world("4xa10g");
    let machine = Machine::start(&world);
    let reports = machine.told(|gpus| gpus.len() == 4).await;
    let foreign: Vec<_> = reports.iter().map(|gpu| gpu.vram_foreign_bytes).collect();
    assert_eq!(foreign, [0, 9 * GIB, 0, 0]);
    assert!(reports.iter().all(|gpu| gpu.links == 0));
    assert_eq!(reports[1].utilisation_percent, 97);
    let seen = machine.until(|seen| seen.gpus.len() == 4).await;
    let gpu = &seen.gpus[1];
    assert_eq!(gpu.throttle_reasons, ["sw-power-cap"]);
    assert_eq!(gpu.memory_utilisation_percent, Some(41));
    let process = &gpu.processes[0];
    assert_eq!(
        (process.pid, process.utilisation_percent),
        (4_000_001, Some(95))
    );
    assert_eq!((&process.name, &process.attempt), (&None, &None));
    assert_eq!(seen.gpus[0].processes, Vec::new());
    // A driver that does not tell bytes of processes: all that is in use is foreign.
    world.gpus[1].processes[0].vram_bytes = None;
    world.gpus[1].processes[0].draws = true;
    world.gpus[1].vram_used_bytes = 12 * GIB;
    machine.set(&world);
    machine
        .told(|gpus| gpus[1].vram_foreign_bytes == 12 * GIB)
        .await;
}

#[tokio::test]
async fn in_a_container_nobody_is_taken_for_a_stranger() {
    let machine = Machine::start_where(&world("4xa10g"), false);
    let reports = machine.told(|gpus| gpus.len() == 4).await;
    assert!(reports.iter().all(|gpu| gpu.vram_foreign_bytes == 0));
    assert!(
        reports[1].vram_used_bytes > 9 * GIB,
        "placement counts it as used beyond what is booked"
    );
    let seen = machine.until(|seen| seen.gpus.len() == 4).await;
    let process = &seen.gpus[1].processes[0];
    assert_eq!(
        (&process.name, &process.user, &process.attempt),
        (&None, &None, &None)
    );
    assert_eq!(process.vram_bytes, Some(9 * GIB));
    let warned = |text: &String| text.contains("--pid host");
    assert!(
        seen.gpu_warnings.iter().any(warned),
        "{:?}",
        seen.gpu_warnings
    );
    assert!(machine.handle.gpu_look().attempts.is_empty());
}

#[tokio::test]
async fn instances_stand_in_the_place_of_their_card() {
    let mut world = world("mig");
    let machine = Machine::start(&world);
    let seen = machine.until(|seen| !seen.gpus.is_empty()).await;
    let [first, _, third] = world.gpus[0].instances.as_slice() else {
        panic!("three instances")
    };
    let (first, third) = (first.clone(), third.clone());
    let whole = world.gpus[1].uuid.clone();
    assert_eq!(seen.gpus.len(), 4, "{:?}", uuids(&seen.gpus));
    let gpu = &seen.gpus[0];
    assert_eq!(gpu.uuid, first.uuid);
    assert_eq!(gpu.model, "NVIDIA A100-SXM4-40GB MIG 3g.20gb");
    assert_eq!(gpu.part_of.as_ref(), Some(&world.gpus[0].uuid));
    assert_eq!(gpu.vram_total_bytes, first.vram_total_bytes);
    assert_eq!(gpu.vram_foreign_bytes, 2 * GIB);
    assert_eq!(gpu.utilisation_percent, None, "NVML does not tell it");
    assert_eq!(gpu.processes[0].utilisation_percent, None);
    assert_eq!((&seen.gpus[3].uuid, &seen.gpus[3].part_of), (&whole, &None));
    // An instance is taken away: the others keep their numbers.
    world.gpus[0].instances.remove(1);
    machine.set(&world);
    let reports = machine.told(|gpus| gpus[1].vram_total_bytes == 0).await;
    assert_eq!((&reports[2].uuid, &reports[3].uuid), (&third.uuid, &whole));
    // MIG is turned off: the card takes a place of its instances.
    world.gpus[0].mig = Some(false);
    world.gpus[0].instances.clear();
    machine.set(&world);
    let reports = machine
        .told(|gpus| gpus[0].uuid == world.gpus[0].uuid)
        .await;
    assert_eq!(reports[3].uuid, whole);
    // And on again, without instances.
    world.gpus[0].mig = Some(true);
    machine.set(&world);
    let seen = machine.until(|seen| seen.gpus[0].problem.is_some()).await;
    let problem = seen.gpus[0].problem.as_ref().unwrap();
    assert!(problem.contains("has no instances"), "{problem}");
}

#[tokio::test]
async fn gpu_that_is_lost_keeps_its_number_and_is_found_again() {
    let whole = world("8xh100");
    let machine = Machine::start(&whole);
    let before = machine.told(|gpus| gpus.len() == 8).await;
    let mut without = whole.clone();
    without.gpus[2].lost = true;
    machine.set(&without);
    let seen = machine.until(|seen| seen.gpus[2].problem.is_some()).await;
    let problem = seen.gpus[2].problem.as_ref().unwrap();
    assert!(problem.contains("fallen off the bus"), "{problem}");
    assert_eq!(
        seen.gpus[2].vram_total_bytes, before[2].vram_total_bytes,
        "still known"
    );
    assert_eq!(seen.gpu_warnings.len(), 1, "{:?}", seen.gpu_warnings);
    assert!(seen.gpu_warnings[0].starts_with("GPU 2 (NVIDIA H100"));
    let reports = machine.told(|gpus| gpus[2].vram_total_bytes == 0).await;
    let same = std::iter::zip(&before, &reports).all(|(before, now)| before.uuid == now.uuid);
    assert!(same && reports[3].vram_total_bytes > 0);
    machine.set(&whole);
    machine.told(|gpus| gpus[2].vram_total_bytes > 0).await;
    let seen = machine.until(|seen| seen.gpus[2].problem.is_none()).await;
    assert_eq!(seen.gpu_warnings, Vec::<String>::new());
}

#[tokio::test]
async fn gpus_that_vanish_and_appear_are_noticed() {
    let whole = world("8xh100");
    let mut fewer = whole.clone();
    let last = fewer.gpus.pop().unwrap();
    let machine = Machine::start(&fewer);
    machine.told(|gpus| gpus.len() == 7).await;
    machine.set(&whole);
    machine.told(|gpus| gpus.len() == 8).await;
    fewer.gpus.remove(2);
    fewer.gpus.push(last);
    machine.set(&fewer);
    let reports = machine.told(|gpus| gpus[2].vram_total_bytes == 0).await;
    let same = std::iter::zip(&whole.gpus, &reports).all(|(gpu, report)| gpu.uuid == report.uuid);
    assert!(same, "each keeps its number: {reports:#?}");
    assert!(reports[7].vram_total_bytes > 0);
    machine.set(&whole);
    machine.told(|gpus| gpus[2].vram_total_bytes > 0).await;
}

#[tokio::test]
async fn xid_79_says_what_to_do_and_other_cards_go_on() {
    let mut world = world("8xh100");
    let machine = Machine::start(&world);
    machine.told(|gpus| gpus.len() == 8).await;
    machine.set(&self::world("xid79"));
    let seen = machine.until(|seen| seen.gpus[5].xids == [79]).await;
    let problem = seen.gpus[5].problem.as_ref().unwrap();
    assert!(
        problem.starts_with("XID 79: the GPU has fallen off the bus; restart the machine"),
        "{problem}"
    );
    // The driver is opened anew, and does not tell which card fails: what is known of it stays.
    let reports = machine.told(|gpus| gpus[5].vram_total_bytes == 0).await;
    assert!(reports[4].vram_total_bytes > 0 && reports[6].vram_total_bytes > 0);
    // The machine was not restarted, but the card is back.
    world.gpus[5].xids = vec![79];
    machine.set(&world);
    machine.told(|gpus| gpus[5].vram_total_bytes > 0).await;
    machine.until(|seen| seen.gpus[5].problem.is_none()).await;
}

#[tokio::test]
async fn xid_of_an_application_is_told_and_the_gpu_stays() {
    let mut world = world("8xh100");
    let machine = Machine::start(&world);
    machine.told(|gpus| gpus.len() == 8).await;
    world.gpus[0].xids = (0..20).map(|_| 31).chain([43]).collect();
    world.gpus[1].xids = vec![95];
    machine.set(&world);
    let seen = machine.until(|seen| seen.gpus[1].problem.is_some()).await;
    let problem = seen.gpus[1].problem.as_ref().unwrap();
    assert!(problem.contains("--gpu-reset"), "{problem}");
    assert_eq!(seen.gpus[0].problem, None);
    assert_eq!(seen.gpus[0].xids.len(), 16);
    assert_eq!(seen.gpus[0].xids.last(), Some(&43));
    assert_eq!(seen.gpu_warnings.len(), 1, "{:?}", seen.gpu_warnings);
}

#[tokio::test]
async fn memory_errors_are_told_in_words() {
    let mut world = world("ecc");
    let machine = Machine::start(&world);
    let seen = machine.until(|seen| !seen.gpus.is_empty()).await;
    let gpu = &seen.gpus[2];
    assert_eq!(
        (gpu.ecc_corrected, gpu.ecc_uncorrected),
        (Some(1_312), Some(2))
    );
    assert_eq!((gpu.retired_pages, &gpu.problem), (Some(3), &None));
    let [warning] = seen.gpu_warnings.as_slice() else {
        panic!("{:?}", seen.gpu_warnings)
    };
    assert!(
        warning.starts_with("GPU 2 (NVIDIA H100 80GB HBM3): 2 memory errors"),
        "{warning}"
    );
    assert!(warning.contains("set aside at the next reset"), "{warning}");
    world.gpus[2].remap_failed = Some(true);
    machine.set(&world);
    machine.told(|gpus| gpus[2].vram_total_bytes == 0).await;
}

#[tokio::test]
async fn hanging_driver_blocks_nobody_and_goes_on_afterwards() {
    let mut world = world("8xh100");
    let machine = Machine::start(&world);
    machine.told(|gpus| gpus.len() == 8).await;
    machine.set(&self::world("hang"));
    let seen = machine
        .until(|seen| seen.gpus_age_ms.is_some_and(|age_ms| age_ms > 500))
        .await;
    assert_eq!(seen.gpus.len(), 8, "the last known");
    // The node still reports.
    let mut latest = machine.handle.latest();
    let before = latest.borrow_and_update().sequence;
    machine.handle.speak_up();
    let next = tokio::time::timeout(DEADLINE, latest.changed()).await;
    next.expect("in time").expect("the loop runs");
    assert!(latest.borrow().sequence > before);
    world.gpus[0].temperature_celsius = Some(77);
    machine.set(&world);
    machine
        .until(|seen| {
            let is_young = seen.gpus_age_ms.is_some_and(|age_ms| age_ms < 500);
            is_young && seen.gpus[0].temperature_celsius == Some(77)
        })
        .await;
}

#[tokio::test]
async fn driver_that_hangs_from_the_start_does_not_hold_up_the_node() {
    let machine = Machine::start(&world("hang"));
    let report = machine.handle.latest().borrow().clone();
    assert!(report.gpus.is_empty());
    assert!(
        report.warnings[0].contains("still starting"),
        "{:?}",
        report.warnings
    );
    assert_eq!(machine.handle.machine().gpus_age_ms, None);
    machine.set(&world("8xh100"));
    machine.told(|gpus| gpus.len() == 8).await;
}

#[tokio::test]
async fn driver_that_comes_and_goes_is_noticed() {
    let missing = world("driver-not-loaded");
    let machine = Machine::start(&missing);
    let seen = machine.until(|seen| !seen.gpu_warnings.is_empty()).await;
    assert!(
        seen.gpu_warnings[0].contains("not loaded"),
        "{:?}",
        seen.gpu_warnings
    );
    assert_eq!((seen.gpus.len(), seen.gpus_age_ms), (0, None));
    machine.set(&world("8xh100"));
    machine
        .told(|gpus| gpus.len() == 8 && gpus[0].vram_total_bytes > 0)
        .await;
    machine.set(&missing);
    let reports = machine.told(|gpus| gpus[0].vram_total_bytes == 0).await;
    assert_eq!(reports.len(), 8, "each keeps its number");
    let seen = machine.until(|seen| seen.gpus_age_ms.is_none()).await;
    assert!(seen.gpus.iter().all(|gpu| gpu.problem.is_some()));
    machine.set(&world("8xh100"));
    machine
        .told(|gpus| gpus.iter().all(|gpu| gpu.vram_total_bytes > 0))
        .await;
}

/// What the driver of this machine says; run it where there is one: `cargo test -p telemetry --test gpus -- --ignored
/// --nocapture`.
#[tokio::test]
#[ignore = "needs a GPU"]
async fn driver_of_this_machine_makes_sense() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::new("12D3KooWnode".parse().unwrap(), directory.path().to_owned());
    let (handle, run) = start(config).unwrap();
    let run = tokio::spawn(run);
    let seen = async {
        loop {
            let machine = handle.machine();
            if !machine.gpus.is_empty() {
                return machine;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let seen = tokio::time::timeout(DEADLINE, seen).await.expect("a GPU");
    println!("{:#?}\n{:#?}", seen.gpus, seen.gpu_warnings);
    let mut names = uuids(&seen.gpus);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), seen.gpus.len(), "uuids are unique");
    for (place, gpu) in (0_u32..).zip(&seen.gpus) {
        let prefix = if gpu.part_of.is_some() {
            "MIG-"
        } else {
            "GPU-"
        };
        assert!(gpu.uuid.starts_with(prefix), "{}", gpu.uuid);
        assert!(gpu.vram_used_bytes <= gpu.vram_total_bytes);
        assert!(gpu.vram_foreign_bytes <= gpu.vram_total_bytes);
        assert!(gpu.utilisation_percent.is_none_or(|percent| percent <= 100));
        assert!(gpu.temperature_celsius.is_none_or(|celsius| celsius < 150));
        assert!(!gpu.linked_to.contains(&place), "not to itself");
        for other in &gpu.linked_to {
            let other = &seen.gpus[usize::try_from(*other).unwrap()];
            assert!(other.linked_to.contains(&place), "links go both ways");
        }
    }
    run.abort();
}
