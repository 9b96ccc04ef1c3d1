//! `cargo run --release -p raft-simulation -- --seeds 100`: histories of a virtual cluster over the real openraft.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};
use raft_simulation::{Plant, Report, Verdict, run};

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
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.virtual_ms += report.virtual_ms;
        self.faults += report.counts.faults + report.counts.crashes_inside;
        self.operations += report.counts.writes + report.counts.reads;
        self.terms += report.terms;
        self.entries += report.entries;
        self.attempts += report.attempts;
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    let begun = Instant::now();
    let mut sums = Sums::default();
    let Arguments {
        seeds,
        seed: first,
        plant,
        verbose,
    } = arguments;
    for seed in first..first.saturating_add(seeds) {
        let report = run(seed, plant, verbose && seeds == 1);
        sums.add(&report);
        if verbose {
            writeln!(out, "seed {seed}: {}", line(&report)).context("writing a line")?;
        }
        let (kind, what) = match &report.verdict {
            Verdict::Sound => continue,
            Verdict::Wrong(what) => ("wrong", what),
            Verdict::Stuck(what) => ("stuck", what),
        };
        let value = plant.to_possible_value();
        let name = value.map_or(String::new(), |value| value.get_name().to_owned());
        writeln!(out, "{kind}: {what}\nseed {seed}: {}", line(&report))
            .context("writing the failure")?;
        writeln!(
            out,
            "replay: cargo run --release -p raft-simulation -- --seeds 1 --seed {seed} --plant {name} --verbose"
        )
        .context("writing the replay")?;
        return Ok(ExitCode::FAILURE);
    }
    let milliseconds = u64::try_from(begun.elapsed().as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    writeln!(
        out,
        "{seeds} seeds from {first} are sound: {}.{} h of virtual time, {} faults, {} operations, {} terms, {} entries, {} attempts in {}.{} s ({}.{} seeds/s)",
        sums.virtual_ms / 3_600_000,
        sums.virtual_ms % 3_600_000 / 360_000,
        sums.faults,
        sums.operations,
        sums.terms,
        sums.entries,
        sums.attempts,
        milliseconds / 1_000,
        milliseconds % 1_000 / 100,
        seeds * 1_000 / milliseconds,
        seeds * 10_000 / milliseconds % 10,
    )
    .context("writing the summary")?;
    Ok(ExitCode::SUCCESS)
}

fn line(report: &Report) -> String {
    let counts = &report.counts;
    format!(
        "{} s virtual, {} machines, {} + {} faults, {} terms, {} entries, {} writes, {} reads, {} retries, {} snapshots taken, {} installed, {} changes of members, {} experiments in {} attempts ({} given up), {} messages ({} late), {} events, trace {:016x}, state {:02x}{:02x}{:02x}{:02x}",
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
        report.events,
        report.trace,
        report.state_hash[0],
        report.state_hash[1],
        report.state_hash[2],
        report.state_hash[3],
    )
}
