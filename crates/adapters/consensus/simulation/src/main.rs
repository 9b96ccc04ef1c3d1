//! `cargo run --release -p raft-simulation -- --seeds 100`: histories of a virtual cluster over the real openraft.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};
use raft_simulation::{Plant, Point, Report, Setup, Verdict, run};

/// Simulates clusters over the real openraft and checks the invariants of muster.
#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A bug on purpose, to see that it is caught.
    #[arg(long, value_enum, default_value_t = Plant::Nothing)]
    plant: Plant,
    /// Where nodes crash far more often than elsewhere.
    #[arg(long, value_enum)]
    crash_at: Option<Point>,
    /// Go on after a failure and count.
    #[arg(long)]
    keep_going: bool,
    /// One line for each seed, and every event of a single one.
    #[arg(long)]
    verbose: bool,
}

/// Sums over all seeds.
#[derive(Default)]
struct Sums {
    virtual_ms: u64,
    faults: u64,
    operations: u64,
    terms: u64,
    entries: u64,
    attempts: usize,
    bereft: usize,
    slowest_heal_ms: u64,
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.virtual_ms += report.virtual_ms;
        self.faults += report.counts.faults + report.counts.crashes_inside;
        self.operations += report.counts.writes + report.counts.reads;
        self.terms += report.terms;
        self.entries += report.entries;
        self.attempts += report.attempts;
        self.bereft += report.bereft;
        self.slowest_heal_ms = self.slowest_heal_ms.max(report.counts.healed_after_ms);
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    let begun = Instant::now();
    let mut sums = Sums::default();
    let setup = Setup {
        plant: arguments.plant,
        crash_at: arguments.crash_at,
        verbose: arguments.verbose && arguments.seeds == 1,
    };
    let mut failed = 0;
    let first = arguments.seed;
    for seed in first..first.saturating_add(arguments.seeds) {
        let report = run(seed, &setup);
        sums.add(&report);
        if arguments.verbose {
            writeln!(out, "seed {seed}: {}", line(&report)).context("writing a line")?;
        }
        let (kind, what) = match &report.verdict {
            Verdict::Sound => continue,
            Verdict::Wrong(what) => ("wrong", what),
            Verdict::Stuck(what) => ("stuck", what),
        };
        failed += 1;
        let replay = replay(seed, &setup);
        writeln!(
            out,
            "{kind}: {what}\nseed {seed}: {}\n{replay}",
            line(&report)
        )
        .context("writing the failure")?;
        if !arguments.keep_going {
            return Ok(ExitCode::FAILURE);
        }
    }
    let verdict = if failed == 0 {
        "all sound".to_owned()
    } else {
        format!("{failed} NOT SOUND")
    };
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(
        out,
        "{} seeds from {first}, {verdict}: {:.2} days of virtual time, {} faults, {} operations, {} terms, {} entries, {} attempts, {} experiments given up after too many lost machines, writes served again {:.1} s after the faults at the latest, in {seconds:.1} s ({:.1} seeds/s)",
        arguments.seeds,
        Duration::from_millis(sums.virtual_ms).as_secs_f64() / 86_400.0,
        sums.faults,
        sums.operations,
        sums.terms,
        sums.entries,
        sums.attempts,
        sums.bereft,
        Duration::from_millis(sums.slowest_heal_ms).as_secs_f64(),
        Duration::from_secs(arguments.seeds).as_secs_f64() / seconds,
    )
    .context("writing the summary")?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The command that plays one history again.
fn replay(seed: u64, setup: &Setup) -> String {
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or(String::new(), |value| value.get_name().to_owned())
    };
    let plant = name(setup.plant.to_possible_value());
    let crash_at = setup.crash_at.map_or(String::new(), |point| {
        format!(" --crash-at {}", name(point.to_possible_value()))
    });
    format!(
        "replay: cargo run --release -p raft-simulation -- --seeds 1 --seed {seed} --plant {plant}{crash_at} --verbose"
    )
}

fn line(report: &Report) -> String {
    let counts = &report.counts;
    format!(
        "{} s virtual, {} machines, {} + {} faults, {} terms, {} entries, {} writes, {} reads, {} retries, {} snapshots taken, {} installed, {} changes of members, {} experiments in {} attempts ({} given up), {} messages ({} late), healed after {} ms, {} events, trace {:016x}, state {:02x}{:02x}{:02x}{:02x}",
        report.virtual_ms / 1_000,
        report.machines,
        counts.faults,
        counts.crashes_inside,
        report.terms,
        report.entries,
        counts.writes,
        counts.reads,
        counts.retries,
        counts.snapshots_built,
        counts.snapshots_installed,
        counts.membership_changes,
        report.experiments,
        report.attempts,
        counts.given_up,
        counts.messages,
        counts.late_messages,
        counts.healed_after_ms,
        report.events,
        report.trace,
        report.state_hash[0],
        report.state_hash[1],
        report.state_hash[2],
        report.state_hash[3],
    )
}
