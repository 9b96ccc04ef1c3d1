//! `cargo run --release -p simulations -- faults --seeds 1000`: histories of a virtual cluster, each from one seed.

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use simulations::{
    Backlog, Decider, Generator, Kept, Outcome, PlacementPolicy, Plant, Question, Report, Trace,
    allocate, generate, most_resident_bytes, run, traffic,
};

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
    /// What one scheduling round costs when the cluster is full and many wait, and the memory of it all.
    Schedule {
        /// Machines.
        #[arg(long, default_value_t = 100)]
        nodes: u32,
        /// Waiting experiments.
        #[arg(long, default_value_t = 1_000)]
        waiting: u32,
    },
    /// Decisions per second of the scheduler, all policies on, over a state to which they are applied.
    Decisions {
        /// Machines of an invented cluster, each with 8 GPUs.
        #[arg(long, default_value_t = 200)]
        machines: u32,
        /// Experiments that are queued in it.
        #[arg(long, default_value_t = 10_000)]
        waiting: u32,
        /// Machines and tasks out of files instead, as for `placement`.
        #[arg(long, value_name = "FILE", requires = "tasks")]
        nodes: Option<PathBuf>,
        /// The tasks.
        #[arg(long, value_name = "FILE", requires = "nodes")]
        tasks: Option<PathBuf>,
        /// How often 64 of what runs ends, and others take their places, after the cluster is full.
        #[arg(long, default_value_t = 50)]
        turns: u32,
    },
    /// Kueue's generator of workloads in queues that lend to each other, on virtual time.
    Kueue {
        /// Which size.
        #[arg(long = "size", value_enum, default_values_t = [SizeName::Small, SizeName::Large])]
        sizes: Vec<SizeName>,
    },
    /// Bytes a second of a node at rest, by its role and the size of its cluster.
    Traffic {
        /// Sizes, in machines.
        #[arg(long, value_delimiter = ',', default_value = "3,10,50,200,1000")]
        nodes: Vec<usize>,
        /// GPUs of each machine.
        #[arg(long, default_value_t = 8)]
        gpus: usize,
        /// Profile of the cluster's times.
        #[arg(long, default_value = "lan", value_parser = ["lan", "wan"])]
        timing: String,
        /// A machine reports so often, and up to a quarter earlier: 5000 at rest, 1000 when all changes each second.
        #[arg(long, default_value_t = 5_000, value_name = "MS")]
        report_ms: u64,
        /// Links between any two nodes instead of those with replicas alone.
        #[arg(long)]
        all_links: bool,
    },
    /// How much of a cluster's GPUs each policy fills: the openb allocation experiment (Weng et al. 2023).
    Placement {
        /// Machines: a file with the columns `cpu_milli`, `memory_mib`, `gpu`, `model`.
        #[arg(long, value_name = "FILE")]
        nodes: PathBuf,
        /// Tasks: a file with the columns `name`, `cpu_milli`, `memory_mib`, `num_gpu`, `gpu_milli` and, if they name models, `gpu_spec`.
        #[arg(long, value_name = "FILE")]
        tasks: PathBuf,
        /// Which policy.
        #[arg(long, value_enum, default_value_t = PolicyName::All)]
        policy: PolicyName,
        /// How many seeds.
        #[arg(long, default_value_t = 10)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum PolicyName {
    All,
    Random,
    BestFit,
    Fgd,
    Muster,
}

#[derive(Clone, Copy, ValueEnum)]
enum SizeName {
    Small,
    Large,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlantName {
    Nothing,
    NoHold,
    UnconfirmedGrant,
    CountFromAnswer,
    DeafHolder,
    WrongIndex,
    AckEarly,
    LyingDisk,
    StaleRead,
    TwoChangesAtOnce,
}

impl PlantName {
    fn plant(self) -> Plant {
        match self {
            Self::Nothing => Plant::Nothing,
            Self::NoHold => Plant::NoHold,
            Self::UnconfirmedGrant => Plant::UnconfirmedGrant,
            Self::CountFromAnswer => Plant::CountFromAnswer,
            Self::DeafHolder => Plant::DeafHolder,
            Self::WrongIndex => Plant::WrongIndex,
            Self::AckEarly => Plant::AckEarly,
            Self::LyingDisk => Plant::LyingDisk,
            Self::StaleRead => Plant::StaleRead,
            Self::TwoChangesAtOnce => Plant::TwoChangesAtOnce,
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().scenario {
        Scenario::Faults {
            seeds,
            seed,
            plant,
            verbose,
        } => faults(seeds, seed, plant, verbose),
        Scenario::Schedule { nodes, waiting } => schedule(nodes, waiting),
        Scenario::Decisions {
            machines,
            waiting,
            nodes,
            tasks,
            turns,
        } => {
            let decider = match nodes.zip(tasks) {
                Some((nodes, tasks)) => Decider::of_trace(&read_trace(&nodes, &tasks)?),
                None => Decider::of_all_policies(machines, waiting),
            };
            decisions(decider, turns)
        }
        Scenario::Traffic {
            nodes,
            gpus,
            timing,
            report_ms,
            all_links,
        } => print_traffic(&nodes, gpus, (&timing, report_ms), all_links),
        Scenario::Kueue { sizes } => kueue(&sizes),
        Scenario::Placement {
            nodes,
            tasks,
            policy,
            seeds,
            seed,
        } => placement(&nodes, &tasks, policy, seed..seed.saturating_add(seeds)),
    }
}

fn faults(seeds: u64, first: u64, plant: PlantName, verbose: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let begun = Instant::now();
    let (mut virtual_ms, mut steps, mut terms, mut troubles) = (0, 0, 0, 0);
    let (mut attempts, mut late, mut bereft) = (0, 0, 0);
    for seed in first..first.saturating_add(seeds) {
        let report = run(seed, plant.plant());
        virtual_ms += report.virtual_ms;
        steps += report.steps;
        attempts += report.attempts;
        late += report.late;
        bereft += report.bereft;
        terms += report.terms;
        troubles += report.faults;
        if verbose {
            writeln!(out, "seed {seed}: {}", line(&report)).context("writing a line")?;
        }
        let (kind, what) = match &report.outcome {
            Outcome::Sound => continue,
            Outcome::Wrong(what) => ("wrong", what),
            Outcome::Stuck(what) => ("stuck", what),
        };
        let value = plant.to_possible_value();
        let name = value.map_or(String::new(), |value| value.get_name().to_owned());
        writeln!(out, "{kind}: {what}\nseed {seed}: {}", line(&report))
            .context("writing the failure")?;
        writeln!(
            out,
            "replay: cargo run --release -p simulations -- faults --seeds 1 --seed {seed} --plant {name} --verbose"
        )
        .context("writing the replay")?;
        return Ok(ExitCode::FAILURE);
    }
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(
        out,
        "{seeds} seeds from {first} are sound: {:.1} days of virtual time, {troubles} faults, {terms} leaders, {attempts} attempts, {late} late results, {bereft} experiments given up after too many lost machines, {steps} steps in {seconds:.1} s ({:.1} seeds/s)",
        Duration::from_millis(virtual_ms).as_secs_f64() / 86_400.0,
        Duration::from_secs(seeds).as_secs_f64() / seconds,
    )
    .context("writing the summary")?;
    Ok(ExitCode::SUCCESS)
}

fn schedule(nodes: u32, waiting: u32) -> anyhow::Result<ExitCode> {
    const ROUNDS: u32 = 101;
    let backlog = Backlog::new(nodes, waiting);
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            let placed = backlog.round();
            (begun.elapsed(), placed)
        })
        .collect();
    times.sort();
    let (median, placed) = times[times.len() / 2];
    let (worst, _) = times[times.len() - 1];
    writeln!(
        std::io::stdout().lock(),
        "one round over {waiting} waiting and {nodes} full nodes places {placed}: median {median:.2?}, worst of {ROUNDS} {worst:.2?}; at most {} MiB resident",
        most_resident_bytes() >> 20
    )
    .context("writing the figure")?;
    Ok(ExitCode::SUCCESS)
}

/// Fills the cluster, then lets some end and others follow.
fn decisions(mut decider: Decider, turns: u32) -> anyhow::Result<ExitCode> {
    const ENDS: usize = 64;
    let base = most_resident_bytes() >> 20;
    let mut out = std::io::stdout().lock();
    let mut phase = |name: &str, decider: &mut Decider, turns: u32| -> anyhow::Result<()> {
        let waiting = decider.waiting();
        let (mut placed, mut rounds, mut deciding, mut applying) =
            (0_usize, 0_u32, Duration::ZERO, Duration::ZERO);
        for _ in 0..turns {
            loop {
                let begun = Instant::now();
                let round = decider.decide();
                deciding += begun.elapsed();
                rounds += 1;
                placed += round.len();
                let is_last = round.len() < decider.most();
                let begun = Instant::now();
                decider.place(round);
                applying += begun.elapsed();
                if is_last {
                    break;
                }
            }
            decider.end(ENDS);
        }
        let rate = |count: u32, time: Duration| f64::from(count) / time.as_secs_f64();
        let placed = u32::try_from(placed).unwrap_or(u32::MAX);
        writeln!(
            out,
            "{name}: {waiting} wait, {placed} placed in {rounds} rounds: {:.0} decisions/s in {deciding:.2?} ({:.2?} a round); with apply {:.0}/s",
            rate(placed, deciding),
            deciding / rounds.max(1),
            rate(placed, deciding + applying),
        )
        .context("writing the figure")
    };
    phase("filling", &mut decider, 1)?;
    phase("turnover", &mut decider, turns)?;
    let begun = Instant::now();
    let room = decider.decide_room();
    let took = begun.elapsed();
    let victims = room.map_or(0, |room| room.victims.len());
    writeln!(
        out,
        "room: {victims} would go, decided in {took:.2?}; {base} MiB resident before, {} MiB at most",
        most_resident_bytes() >> 20
    )
    .context("writing the figure")?;
    Ok(ExitCode::SUCCESS)
}

fn print_traffic(
    sizes: &[usize],
    gpus: usize,
    (timing, report_ms): (&str, u64),
    all_links: bool,
) -> anyhow::Result<ExitCode> {
    let kept = match all_links {
        true => Kept::All,
        false => Kept::WithReplicas,
    };
    let mut out = std::io::stdout().lock();
    for nodes in sizes {
        let question = Question {
            nodes: *nodes,
            gpus,
            timing,
            report_ms,
            kept,
            seed: 1,
        };
        for rate in traffic(&question) {
            let role = format!("{:?}", rate.role).to_lowercase();
            writeln!(
                out,
                "traffic nodes={nodes} role={role} count={} links={} received={} B/s sent={} B/s",
                rate.count, rate.links, rate.received, rate.sent
            )
            .context("writing a line")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kueue(sizes: &[SizeName]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for size in sizes {
        let generator = match size {
            SizeName::Small => Generator::small(),
            SizeName::Large => Generator::large(),
        };
        let figures = generate(&generator);
        let (wall, bound) = (figures.wall.as_secs_f64(), generator.bound().as_secs_f64());
        let real = (figures.deciding + figures.applying).as_secs_f64();
        let [small, medium, large] = figures.mean_wait_ms;
        writeln!(
            out,
            "size={} workloads={} finished={} wall={wall:.2}s published={}s bound={bound:.2}s wall/bound={:.3} published/wall={:.1} rounds={} placed={} preempted={} mean_wait_ms=small:{small},medium:{medium},large:{large} deciding={:.2}s applying={:.2}s wall+real={:.2}s published/(wall+real)={:.1}",
            generator.name,
            generator.workloads(),
            figures.finished,
            generator.published_s,
            wall / bound,
            generator.published_s / wall,
            figures.rounds,
            figures.placed,
            figures.preempted,
            figures.deciding.as_secs_f64(),
            figures.applying.as_secs_f64(),
            wall + real,
            generator.published_s / (wall + real),
        )
        .context("writing a line")?;
        anyhow::ensure!(
            figures.finished == generator.workloads(),
            "{} workloads never ended",
            generator.workloads() - figures.finished
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn read_trace(nodes: &Path, tasks: &Path) -> anyhow::Result<Trace> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let both = || format!("{} with {}", nodes.display(), tasks.display());
    Trace::read(&read(nodes)?, &read(tasks)?).with_context(both)
}

fn placement(
    nodes: &Path,
    tasks: &Path,
    policy: PolicyName,
    seeds: Range<u64>,
) -> anyhow::Result<ExitCode> {
    let trace = read_trace(nodes, tasks)?;
    let chosen = PlacementPolicy::ALL.into_iter().filter(|one| match policy {
        PolicyName::All => true,
        PolicyName::Random => *one == PlacementPolicy::Random,
        PolicyName::BestFit => *one == PlacementPolicy::BestFit,
        PolicyName::Fgd => *one == PlacementPolicy::Fgd,
        PolicyName::Muster => *one == PlacementPolicy::Muster,
    });
    let mut out = std::io::stdout().lock();
    for policy in chosen {
        let begun = Instant::now();
        let runs: Vec<_> = seeds
            .clone()
            .map(|seed| allocate(&trace, policy, seed))
            .collect();
        let count = f64::from(u32::try_from(runs.len()).context("too many seeds")?);
        let mean = runs.iter().map(|run| run.percent).sum::<f64>() / count;
        let squares = runs
            .iter()
            .map(|run| (run.percent - mean).powi(2))
            .sum::<f64>();
        let sd = (squares / (count - 1.0).max(1.0)).sqrt();
        let decided: usize = runs.iter().map(|run| run.tasks).sum();
        let seconds = begun.elapsed().as_secs_f64();
        writeln!(
            out,
            "policy={} mean={mean:.3} sd={sd:.3} seconds={seconds:.2} decisions_per_second={:.0} seeds={}",
            policy.name(),
            f64::from(u32::try_from(decided).context("too many tasks")?) / seconds,
            runs.len(),
        )
        .context("writing a line")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn line(report: &Report) -> String {
    format!(
        "{} s virtual, {} steps, {} entries, {} leaders, {} faults, {} experiments in {} attempts, state {:02x}{:02x}{:02x}{:02x}",
        report.virtual_ms / 1_000,
        report.steps,
        report.entries,
        report.terms,
        report.faults,
        report.experiments,
        report.attempts,
        report.state_hash[0],
        report.state_hash[1],
        report.state_hash[2],
        report.state_hash[3],
    )
}
