//! `cargo run --release -p simulations -- faults --seeds 1000`: histories of a virtual cluster, each from one seed.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use simulations::{Outcome, Plant, Report, run};

#[derive(Parser)]
#[command(about = "Simulates clusters over the core of muster and checks its invariants")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Crashes, cuts, storms and changes of leader, then peace: nothing wrong ever, everything done in the end.
    Faults {
        /// How many seeds.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A bug on purpose, to see that it is caught.
        #[arg(long, value_enum, default_value_t = PlantName::Nothing)]
        plant: PlantName,
        /// One line for each seed.
        #[arg(long)]
        verbose: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum PlantName {
    Nothing,
    NoHold,
    UnconfirmedGrant,
    CountFromAnswer,
    DeafHolder,
    TrustAbsence,
}

impl PlantName {
    fn plant(self) -> Plant {
        match self {
            Self::Nothing => Plant::Nothing,
            Self::NoHold => Plant::NoHold,
            Self::UnconfirmedGrant => Plant::UnconfirmedGrant,
            Self::CountFromAnswer => Plant::CountFromAnswer,
            Self::DeafHolder => Plant::DeafHolder,
            Self::TrustAbsence => Plant::TrustAbsence,
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let Scenario::Faults {
        seeds,
        seed,
        plant,
        verbose,
    } = Arguments::parse().scenario;
    let mut out = std::io::stdout().lock();
    let begun = Instant::now();
    let (mut virtual_ms, mut steps, mut attempts, mut terms) = (0, 0, 0, 0);
    for seed in seed..seed.saturating_add(seeds) {
        let report = run(seed, plant.plant());
        virtual_ms += report.virtual_ms;
        steps += report.steps;
        attempts += report.attempts;
        terms += report.terms;
        if verbose {
            writeln!(out, "seed {seed}: {}", line(&report)).context("writing a line")?;
        }
        let (kind, what) = match &report.outcome {
            Outcome::Sound => continue,
            Outcome::Wrong(what) => ("wrong", what),
            Outcome::Stuck(what) => ("stuck", what),
        };
        let name = plant
            .to_possible_value()
            .map_or(String::new(), |value| value.get_name().to_owned());
        writeln!(out, "{kind}: {what}\nseed {seed}: {}", line(&report))
            .context("writing the failure")?;
        writeln!(out, "replay: cargo run --release -p simulations -- faults --seeds 1 --seed {seed} --plant {name} --verbose").context("writing the replay")?;
        return Ok(ExitCode::FAILURE);
    }
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(
        out,
        "{seeds} seeds from {seed} are sound: {:.1} h of virtual time, {attempts} attempts, {terms} leaders, {steps} steps in {seconds:.1} s ({:.1} seeds/s)",
        std::time::Duration::from_millis(virtual_ms).as_secs_f64() / 3_600.0,
        std::time::Duration::from_secs(seeds).as_secs_f64() / seconds,
    )
    .context("writing the summary")?;
    Ok(ExitCode::SUCCESS)
}

fn line(report: &Report) -> String {
    format!(
        "{} s virtual, {} steps, {} entries, {} leaders, {} experiments in {} attempts, state {:02x}{:02x}{:02x}{:02x}",
        report.virtual_ms / 1_000,
        report.steps,
        report.entries,
        report.terms,
        report.experiments,
        report.attempts,
        report.state_hash[0],
        report.state_hash[1],
        report.state_hash[2],
        report.state_hash[3],
    )
}
