//! A closed loop: each client writes, waits for the answer, and writes again.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::figures::{Samples, number};

/// Time before the counting begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// Somebody who writes one thing at a time.
pub(crate) trait Writer: Send + 'static {
    /// One durable write.
    fn write(&mut self) -> impl Future<Output = anyhow::Result<()>>;
}

/// What a run brought.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) latencies_ms: Samples,
    /// All writes, those of the warm-up too.
    pub(crate) writes: usize,
    pub(crate) errors: usize,
    pub(crate) last_error: String,
}

struct Tally {
    latencies_ms: Vec<f64>,
    writes: usize,
    errors: usize,
    last_error: String,
}

/// Drives all writers at once and counts what begins and ends within `length`.
pub(crate) async fn run<W: Writer>(writers: Vec<W>, length: Duration) -> Run {
    let from = Instant::now() + WARM_UP;
    let until = from + length;
    // On the one thread of the generator.
    let local = tokio::task::LocalSet::new();
    let mut tasks = JoinSet::new();
    for writer in writers {
        tasks.spawn_local_on(drive(writer, from, until), &local);
    }
    let mut all = Vec::new();
    let (mut writes, mut errors, mut last_error) = (0, 0, String::new());
    local
        .run_until(async {
            while let Some(done) = tasks.join_next().await {
                let Ok(tally) = done else {
                    errors += 1;
                    continue;
                };
                all.extend(tally.latencies_ms);
                writes += tally.writes;
                errors += tally.errors;
                if !tally.last_error.is_empty() {
                    last_error = tally.last_error;
                }
            }
        })
        .await;
    Run {
        per_second: number(all.len()) / length.as_secs_f64(),
        latencies_ms: Samples::new(all),
        writes,
        errors,
        last_error,
    }
}

async fn drive<W: Writer>(mut writer: W, from: Instant, until: Instant) -> Tally {
    let mut tally = Tally {
        latencies_ms: Vec::new(),
        writes: 0,
        errors: 0,
        last_error: String::new(),
    };
    loop {
        let began = Instant::now();
        if began >= until {
            return tally;
        }
        match writer.write().await {
            Ok(()) => {
                let ended = Instant::now();
                tally.writes += 1;
                if began >= from && ended <= until {
                    tally
                        .latencies_ms
                        .push((ended - began).as_secs_f64() * 1_000.0);
                }
            }
            Err(error) => {
                tally.errors += 1;
                tally.last_error = format!("{error:#}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
