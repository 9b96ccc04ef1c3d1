//! The figures of this program beside those of what a user would pick instead, measured in the same minutes.
//!
//! `cargo bench --bench report -- [submits|start|failover|death|idle|records|kueue|all]` starts real nodes on 127.0.0.1 in directories
//! of their own, and the peers likewise: etcd for submits, failover and idling, `HyperQueue` for starts. Nothing here is
//! a test: a noisy machine moves every figure, which is why each has its peer's of the same minutes and a ratio.

mod arguments;
mod death;
mod etcd;
mod exchange;
mod failover;
mod figures;
mod hyperqueue;
mod idle;
mod kueue;
mod load;
mod muster;
mod process;
mod protobuf;
mod records;
mod stamp;
mod start;
mod submits;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, What};
use table::{Table, say};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|first| first == stamp::FLAG)
        && let Some(file) = words.next()
    {
        return stamp::append(file.as_ref());
    }
    if std::env::args_os().len() == 1 {
        // `cargo test --all-targets` runs benches too, without the `--bench` that `cargo bench` adds.
        say("nothing is measured without being asked for: cargo bench --bench report");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    // One thread: what the load generator takes from the machine is the same for everybody.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(report(&arguments)),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("report failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn report(arguments: &Arguments) -> anyhow::Result<()> {
    let mut table = Table::default();
    let measured = tokio::select! {
        measured = measure(arguments, &mut table) => measured,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    table.print();
    measured
}

async fn measure(arguments: &Arguments, table: &mut Table) -> anyhow::Result<()> {
    let wanted = |what| arguments.what == What::All || arguments.what == what;
    if wanted(What::Idle) {
        idle::measure(arguments, table).await?;
    }
    if wanted(What::Records) {
        records::measure(arguments, table).await?;
    }
    if wanted(What::Start) {
        start::measure(arguments, table).await?;
    }
    for &voters in &arguments.voters {
        if wanted(What::Failover) {
            failover::measure(arguments, voters, table).await?;
        }
        if wanted(What::Death) {
            death::measure(arguments, voters, table).await?;
        }
    }
    // Not among all: it takes minutes of its own.
    if arguments.what == What::Kueue {
        kueue::measure(arguments, table).await?;
    }
    if wanted(What::Submits) {
        submits::measure(arguments, table).await?;
    }
    if arguments.what == What::All {
        say("cold build time (not measured here, since it removes what is built):");
        say("    cargo clean && time cargo build --release");
    }
    Ok(())
}
