//! Environments of experiments: built on this node from their description, once for all who need the same, and kept.
//!
//! A build runs as the user of the jobs that need it ([`crate::hold`] in another role), sees of the node's directory what
//! it writes and nothing else, and ends with the node or when nobody waits for it any more. What is finished belongs to
//! the node: jobs read it.

mod build;
mod flight;
mod index;
mod order;
mod plan;
mod proxied;
mod python;
mod shelf;
mod tools;
mod upstream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc, watch};
use types::{EnvironmentSpec, codec};

use crate::hold::Program;
use crate::job_user::Confinement;
use flight::{Flight, Journal};
use shelf::Shelf;
use tools::Tools;

pub(crate) use flight::{Failure, Line};
pub(crate) use order::BuildOrder;
pub use proxied::PackageIndex;
pub(crate) use shelf::Built;
pub use upstream::{IndexError, OfferedFile};

/// Where environments are and what they may cost.
#[derive(Clone, Debug)]
pub struct EnvironmentConfig {
    /// Where they are: `<data dir>/environments`. Made with the first.
    pub directory: PathBuf,
    /// Where tools are that the node installs for itself: `<data dir>/tools`.
    pub tools: PathBuf,
    /// Those least recently used go when all are larger.
    pub max_bytes: u64,
    /// Longest build.
    pub time_limit: Duration,
    /// Where builds get packages; none: from the indexes of the machine, each for itself.
    pub index: Option<PackageIndex>,
}

impl EnvironmentConfig {
    /// The settings for directories beside the one of attempts.
    #[must_use]
    pub fn beside(attempts: &std::path::Path) -> Self {
        Self {
            directory: attempts.with_file_name("environments"),
            tools: attempts.with_file_name("tools"),
            // Ten of PyTorch with CUDA, the largest that are common: 5 GiB each.
            max_bytes: 50 << 30,
            // A download of 3 GB at 20 Mbit/s takes 20 min.
            time_limit: Duration::from_mins(30),
            index: None,
        }
    }
}

/// The environment of an attempt, ready.
#[derive(Clone, Debug)]
pub(crate) struct Provided {
    pub(crate) built: Arc<Built>,
    /// The virtual environment.
    pub(crate) path: PathBuf,
    /// It was there already.
    pub(crate) cached: bool,
}

/// All environments of this node.
#[derive(Debug)]
pub(crate) struct Environments {
    config: EnvironmentConfig,
    program: Program,
    shelf: Shelf,
    tools: Tools,
    /// Settings of the node's process for package indexes.
    index: Vec<(String, String)>,
    /// These with pip's own, and the Python that told them, once somebody asked.
    settings: OnceCell<upstream::Settings>,
    flights: Mutex<BTreeMap<String, Flight>>,
    /// Builds begun so far.
    builds: AtomicU64,
    /// Keys that attempts on this node name, with how many do.
    pins: Mutex<BTreeMap<String, usize>>,
}

/// Keeps an environment from being collected.
#[derive(Debug)]
pub(crate) struct Pin {
    environments: Arc<Environments>,
    key: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.environments.pins);
        if let Some(count) = pins.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.key);
            }
        }
    }
}

/// Waits for a build; the last one that leaves ends it.
struct Waiting<'a> {
    environments: &'a Environments,
    key: String,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut flights = lock(&self.environments.flights);
        let flight = flights.get_mut(&self.key);
        if let Some(flight) = flight.filter(|flight| flight.number == self.number) {
            flight.waiting -= 1;
            if flight.waiting == 0 {
                flight.cancel.cancel();
            }
        }
    }
}

/// What is there when an attempt asks.
enum Found {
    Built(Arc<Built>),
    Flight(u64, watch::Receiver<flight::Progress>),
}

impl Environments {
    pub(crate) fn new(config: EnvironmentConfig, program: Program) -> Self {
        let shelf = Shelf {
            directory: config.directory.clone(),
        };
        if let Err(error) = shelf.clear_unfinished() {
            tracing::warn!(%error, path = %shelf.directory.display(), "environments cannot be looked through");
        }
        Self {
            tools: Tools::new(config.tools.clone()),
            shelf,
            config,
            program,
            index: index::of_node(),
            settings: OnceCell::new(),
            flights: Mutex::default(),
            builds: AtomicU64::new(0),
            pins: Mutex::default(),
        }
    }

    /// Keeps the environment with this directory; none if it is not one of ours.
    pub(crate) fn pin_path(self: &Arc<Self>, path: &str) -> Option<Pin> {
        let place = std::path::Path::new(path).parent()?;
        let key = place.strip_prefix(&self.config.directory).ok()?.to_str()?; // not below ours: none
        Some(self.pin(key))
    }

    fn pin(self: &Arc<Self>, key: &str) -> Pin {
        *lock(&self.pins).entry(key.to_owned()).or_default() += 1;
        Pin {
            environments: Arc::clone(self),
            key: key.to_owned(),
        }
    }

    /// The environment of a description, built if there is none; `say` is sent what the build says. Dropped, it waits no
    /// longer, and the last who waited ends the build.
    pub(crate) async fn provide(
        self: &Arc<Self>,
        spec: &EnvironmentSpec,
        confinement: &Confinement,
        variables: &[(String, String)],
        say: &mpsc::Sender<Vec<Line>>,
    ) -> Result<(Provided, Pin), Failure> {
        let EnvironmentSpec::V1(wanted) = spec;
        let python = python::find(&wanted.python, variables)
            .await
            .map_err(Failure::Build)?;
        let user = confinement.account.as_ref().map(|account| account.uid);
        let built_from = (
            (wanted.kind, &wanted.files, &wanted.requirements),
            (&wanted.packages, &python.executable, &python.version),
            (&python.platform, user),
        );
        let hash = blake3::hash(&codec::encode(&built_from)).to_hex();
        let key = &hash[..shelf::KEY_LENGTH];
        let pin = self.pin(key);
        let job = build::Job {
            spec: wanted.clone(),
            key: key.to_owned(),
            python,
            confinement: confinement.clone(),
            variables: variables.to_vec(),
        };
        loop {
            let found = self.find_or_build(&job)?;
            let (built, cached) = match found {
                Found::Built(built) => (Ok(built), true),
                Found::Flight(number, progress) => {
                    let waiting = Waiting {
                        environments: self,
                        key: key.to_owned(),
                        number,
                    };
                    let outcome = follow(progress, say).await;
                    drop(waiting);
                    (outcome, false)
                }
            };
            match built {
                // It was given up just before this one came: again.
                Err(Failure::Cancelled) => {}
                Err(failure) => return Err(failure),
                Ok(built) => {
                    let provided = Provided {
                        path: self.shelf.environment(key),
                        built,
                        cached,
                    };
                    return Ok((provided, pin));
                }
            }
        }
    }

    /// Looks, and begins a build if there is nothing, under one lock: two that come together build once.
    fn find_or_build(self: &Arc<Self>, job: &build::Job) -> Result<Found, Failure> {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get_mut(&job.key) {
            flight.waiting += 1;
            return Ok(Found::Flight(flight.number, flight.progress.subscribe()));
        }
        let built = self.shelf.get(&job.key);
        if let Some(built) = built.map_err(|error| Failure::machine("looking for it", &error))? {
            if let Err(error) = self.shelf.touch(&job.key) {
                tracing::warn!(%error, "use of an environment is not remembered");
            }
            return Ok(Found::Built(Arc::new(built)));
        }
        let number = self.builds.fetch_add(1, Ordering::Relaxed);
        let mut flight = Flight::new(number);
        flight.waiting = 1;
        let (progress, cancel) = (flight.progress.clone(), flight.cancel.clone());
        let receiver = progress.subscribe();
        flights.insert(job.key.clone(), flight);
        tracing::info!(key = job.key, "building an environment");
        drop(flights);
        let (environments, job) = (Arc::clone(self), job.clone());
        tokio::spawn(async move {
            let journal = Journal::new(progress.clone());
            let outcome = build::build(&environments, &job, &journal, &cancel).await;
            let outcome = outcome.map(Arc::new);
            lock(&environments.flights).remove(&job.key);
            progress.send_modify(|progress| progress.outcome = Some(outcome));
            environments.collect().await;
        });
        Ok(Found::Flight(number, receiver))
    }

    /// Removes what was not used for longest, until the rest is within the limit.
    async fn collect(self: &Arc<Self>) {
        let own = Arc::clone(self);
        let collected = tokio::task::spawn_blocking(move || {
            // Nobody finds one while it goes.
            let _flights = lock(&own.flights);
            let in_use = |key: &str| lock(&own.pins).contains_key(key);
            for key in own.shelf.surplus(own.config.max_bytes, &in_use)? {
                own.shelf.remove(&key)?;
                tracing::info!(key, "environment collected: not used for longest");
            }
            Ok::<_, std::io::Error>(())
        });
        match collected.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "environments cannot be collected"),
            Err(error) => tracing::error!(%error, "collecting environments failed"),
        }
    }
}

/// Passes the lines of a build on until it is over.
async fn follow(
    mut progress: watch::Receiver<flight::Progress>,
    say: &mpsc::Sender<Vec<Line>>,
) -> Result<Arc<Built>, Failure> {
    let mut told = 0;
    loop {
        let (news, outcome) = {
            let seen = progress.borrow_and_update();
            (seen.lines[told..].to_vec(), seen.outcome.clone())
        };
        told += news.len();
        if !news.is_empty() {
            // Nobody writes them down any more: the build goes on all the same.
            drop(say.send(news).await);
        }
        if let Some(outcome) = outcome {
            return outcome;
        }
        if progress.changed().await.is_err() {
            return Err(Failure::Machine {
                full: false,
                line: "the build ended without a word".to_owned(),
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no holder of this lock can panic: it only reads and writes the map")
}
