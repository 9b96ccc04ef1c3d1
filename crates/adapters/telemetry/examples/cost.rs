//! What telemetry costs a machine: processor time and memory at one look a second, with eight GPUs on which twenty
//! attempts compute, by the fake driver (a real one adds its own).
//!
//! `cargo run --release -p telemetry --example cost [-- SECONDS]`

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake_nvml::{Fake, Process, World};
use telemetry::{Config, OwnTree, start};

/// Seconds that are measured, unless told.
const SECONDS: u64 = 30;
const ATTEMPTS: usize = 20;

/// Processor time of this process, microseconds.
fn processor_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

/// Resident memory of this process, KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_ascii_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// A process that stands for an attempt; it ends with this.
struct Attempt(Child);

impl Attempt {
    fn new() -> std::io::Result<Self> {
        let mut command = Command::new("sleep");
        command
            .arg("100000")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().map(Self)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        if self.0.kill().is_ok() {
            self.0.wait().map(drop).unwrap_or_default();
        }
    }
}

/// The library with a world in which the attempts compute.
fn driver(directory: &Path, attempts: &[Attempt]) -> std::io::Result<Fake> {
    let mut world = World::named("8xh100")?;
    for (number, Attempt(child)) in attempts.iter().enumerate() {
        let gpus = world.gpus.len();
        let gpu = &mut world.gpus[number % gpus];
        gpu.processes.push(Process {
            pid: child.id(),
            vram_bytes: Some(4 << 30),
            sm_percent: 30,
            draws: false,
        });
        gpu.vram_used_bytes += 4 << 30;
    }
    Fake::new(directory, &world)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => SECONDS,
    };
    let directory = tempfile::tempdir()?;
    let mut attempts = Vec::new();
    for _number in 0..ATTEMPTS {
        attempts.push(Attempt::new()?);
    }
    let fake = driver(directory.path(), &attempts)?;
    let before_kib = resident_kib();
    let config = Config {
        nvml_path: Some(fake.library().to_path_buf()),
        ..Config::new("12D3KooWnode".parse()?, directory.path().to_path_buf())
    };
    let (handle, run) = start(config)?;
    let trees = attempts.iter().enumerate();
    let trees = trees.map(|(number, Attempt(child))| OwnTree {
        attempt: format!("attempt-{number}"),
        root_pid: child.id(),
    });
    handle.set_trees(trees.collect());
    tokio::spawn(run);
    let settled = Duration::from_secs(2);
    tokio::time::sleep(settled).await;
    let began_us = processor_us();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used_us = processor_us() - began_us;
    let machine = handle.machine();
    let told = handle.gpu_look().attempts;
    let seen: usize = machine.gpus.iter().map(|gpu| gpu.processes.len()).sum();
    #[expect(clippy::print_stdout, reason = "a figure for people")]
    {
        println!(
            "telemetry gpus={} processes={seen} attempts={} cpu_us_per_second={} resident_kib={} of which telemetry added {}",
            machine.gpus.len(),
            told.len(),
            used_us / i64::try_from(seconds)?,
            resident_kib(),
            resident_kib().saturating_sub(before_kib),
        );
    }
    Ok(())
}
