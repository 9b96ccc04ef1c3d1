//! Measures `start_attempt` → first line of the job's `main`, one attempt after the other.
//!
//! `cargo run --release -p executor --example start_latency [runs] [--no-cgroups] [--job-user NAME]`; build `--example
//! hold` first. As root the default user is `node`; `--job-user nobody` shows what becoming another one costs, for which
//! the program must lie where that one may go. As somebody else, `--hide` shows what hiding the node's directory costs.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use executor::{Config, Event, JobUser, StartAttempt, boottime_ms};
use tokio_util::sync::CancellationToken;
use types::{
    AttemptToken, DurationMs, Environment, ExperimentId, ExperimentSpec, Incarnation, LogIndex,
    Policy, QueueName, RecordBody, ResourceRequest, Resources, WantedAttempt, decode_frames,
};

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let began = micros()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "stamp") {
        writeln!(std::io::stdout(), "{began}")?;
        return Ok(());
    }
    let runs = arguments.iter().find_map(|text| text.parse().ok());
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let settings = Settings {
        use_cgroups: !has("--no-cgroups"),
        hide: has("--hide"),
        job_user: JobUser::named(&after("--job-user").unwrap_or("node".to_owned())),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(runs.unwrap_or(50), settings))
}

fn micros() -> Result<u128, Failure> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())
}

struct Settings {
    use_cgroups: bool,
    hide: bool,
    job_user: JobUser,
}

async fn measure(runs: u32, settings: Settings) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let holder = own.parent().map(|path| path.join("hold"));
    let holder = match std::env::var_os("HOLDER") {
        Some(path) => path.into(),
        None => holder.ok_or("this program has a directory")?,
    };
    let mut config = Config::new(directory.path().join("attempts"), holder);
    config.use_cgroups = settings.use_cgroups;
    config.job_user = settings.job_user;
    config.private_directory = settings.hide.then(|| directory.path().to_owned());
    config.holder_arguments.clear();
    let (handle, mut events, runner) = executor::start(config).await?;
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(runner.run(shutdown.clone()));
    let mut took = Vec::new();
    let mut whole = Vec::new();
    for number in 1..=runs {
        let start = start_of(number, &own)?;
        let token = start.wanted.token;
        let began = micros()?;
        handle.start_attempt(start).await?;
        loop {
            match events.recv().await {
                Some(Event::Ended { .. }) => break,
                Some(_) => {}
                None => return Err("the executor ended".into()),
            }
        }
        whole.push(micros()? - began);
        let read = handle.read_tail(&token, 0, 1 << 20).await?;
        for record in decode_frames(&read.frames)?.0 {
            if let RecordBody::Console { bytes, .. } = record.body {
                let stamp: u128 = std::str::from_utf8(&bytes)?.trim().parse()?;
                took.push(stamp - began);
            }
        }
        handle.release(&token).await?;
    }
    shutdown.cancel();
    task.await?;
    report("start to first instruction", took)?;
    report("start to durable end", whole)
}

fn report(what: &str, mut micros: Vec<u128>) -> Result<(), Failure> {
    micros.sort_unstable();
    let at = |percent: usize| micros.get(micros.len().saturating_sub(1) * percent / 100);
    let (Some(p50), Some(p90), Some(max)) = (at(50), at(90), at(100)) else {
        return Err("no run was measured".into());
    };
    let runs = micros.len();
    let line = format!("{what}: {runs} runs, p50 {p50} us, p90 {p90} us, max {max} us\n");
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

fn start_of(number: u32, program: &Path) -> Result<StartAttempt, Failure> {
    let program = program.to_str().ok_or("the path is text")?.to_owned();
    let spec = ExperimentSpec {
        name: "stamp".to_owned(),
        command: vec![program, "stamp".to_owned()],
        source: None,
        working_directory: String::new(),
        variables: Vec::new(),
        environment: Environment::Host,
        parameters: Vec::new(),
        resources: ResourceRequest::default(),
        learned: Vec::new(),
        prefer_nodes: Vec::new(),
        queue: QueueName::default(),
        policy: Policy::default(),
        outputs: types::Outputs::default(),
        origin: None,
    };
    let wanted = WantedAttempt {
        token: AttemptToken {
            incarnation: Incarnation(1),
            experiment: ExperimentId::from_bits(1),
            attempt: number,
            placed_at: LogIndex(1),
        },
        rank: 0,
        gang: Vec::new(),
        spec,
        submitted_by: "bench@here".to_owned(),
        resources: Resources {
            cpu_milli: 1_000,
            memory_bytes: 1 << 30,
            ..Resources::default()
        },
        mirror: None,
        lease_ms: DurationMs(60_000),
        stop_requested_by: None,
    };
    Ok(StartAttempt {
        wanted,
        tree: None,
        files: BTreeMap::new(),
        gpus: Vec::new(),
        environment: None,
        deadline_boottime_ms: boottime_ms() + 60_000,
        variables: Vec::new(),
    })
}
