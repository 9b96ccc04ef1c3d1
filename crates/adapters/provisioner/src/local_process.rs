//! A provider whose machines are processes on this machine.

mod ending;
mod instances;
mod process;
mod stored;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use types::Timestamp;

use crate::Error;
use ending::{kill_and_wait, sweep};
use instances::Instances;

pub use process::INSTANCE_VARIABLE;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRequest {
    /// Names the intent: a repeat gets the same instance. 1 to 64 of `a-z`, `0-9` and `-`.
    pub client_token: String,
    /// Arguments of the program.
    pub arguments: Vec<String>,
    /// Environment variables beside the inherited ones.
    pub variables: Vec<(String, String)>,
    /// File that its output is appended to.
    pub log_file: PathBuf,
}

/// A launched process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalInstance {
    /// Its id: unique on this machine, ends with the client token.
    pub id: String,
    /// Token that it was launched with.
    pub client_token: String,
    /// Process id; another process may have it once this one has ended.
    pub pid: u32,
    /// It runs.
    pub is_running: bool,
    /// Exit code, or 128 + signal, if it has ended as a child of this process.
    pub exit_code: Option<i32>,
    /// When it was launched, wall clock.
    pub launched_at: Timestamp,
    /// File with its output.
    pub log_file: PathBuf,
}

/// Launches, lists and ends processes; clones share it. What runs is remembered in a file, so that a restarted
/// provider goes on with it.
#[derive(Clone, Debug)]
pub struct LocalProcess {
    instances: Arc<Mutex<Instances>>,
}

impl LocalProcess {
    /// The provider that launches `program` and remembers in `directory`, which one process at a time uses.
    ///
    /// # Errors
    /// The directory cannot be made, is in use, or its state file cannot be read.
    pub fn new(program: PathBuf, directory: PathBuf) -> Result<Self, Error> {
        let instances = Instances::open(program, directory)?;
        Ok(Self {
            instances: Arc::new(Mutex::new(instances)),
        })
    }

    /// With `true`, everything that still runs is killed when the last clone is dropped (not when this process
    /// is killed: what then still runs is in [`LocalProcess::list`] after a restart).
    pub fn kill_on_drop(&self, kill_on_drop: bool) {
        lock(&self.instances).kill_on_drop = kill_on_drop;
    }

    /// Starts the program in its own process group, as a child of this process. A repeat of the token starts
    /// nothing and returns the instance, ended or not.
    ///
    /// # Errors
    /// The token is no token or stands for something else, too many run, the program cannot be started, or the
    /// state cannot be written.
    pub async fn launch(&self, request: LaunchRequest) -> Result<LocalInstance, Error> {
        self.blocking(move |shared| lock(shared).launch(&request))
            .await
    }

    /// All instances in the order of their launch; ended ones for a while.
    ///
    /// # Errors
    /// The state cannot be written.
    pub async fn list(&self) -> Result<Vec<LocalInstance>, Error> {
        self.blocking(|shared| lock(shared).list()).await
    }

    /// Ends an instance as a cloud ends a machine: SIGTERM, `grace`, SIGKILL, then everything that it left behind
    /// (processes with its [`INSTANCE_VARIABLE`], and their children). One that has ended stays ended.
    ///
    /// # Errors
    /// It was never launched, cannot be signalled, or outlives its kill.
    pub async fn terminate(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let id = id.to_owned();
        self.blocking(move |shared| {
            end(shared, &id, Some(grace))?;
            sweep(&id)
        })
        .await
    }

    /// Kills the process alone, at once (SIGKILL): the crash of a node. What it left behind lives on.
    ///
    /// # Errors
    /// It was never launched, cannot be signalled, or outlives its kill.
    pub async fn kill(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.blocking(move |shared| end(shared, &id, None)).await
    }

    /// Kills the process and everything that it left behind, at once: the loss of a machine.
    ///
    /// # Errors
    /// As [`LocalProcess::terminate`].
    pub async fn kill_all(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.blocking(move |shared| {
            end(shared, &id, None)?;
            sweep(&id)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mutex<Instances>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.instances);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|e| Err(Error::Task(e)))
    }

    /// Directory of the state file.
    pub(crate) fn directory(&self) -> PathBuf {
        lock(&self.instances).directory.clone()
    }
}

/// Ends the process of an instance, with SIGTERM first if there is a grace. The lock is not held while waiting.
fn end(shared: &Mutex<Instances>, id: &str, grace: Option<Duration>) -> Result<(), Error> {
    let instance = {
        let mut shared = lock(shared);
        shared.refresh()?;
        shared.find(id)?.clone()
    };
    if !instance.has_ended {
        kill_and_wait(&instance, grace)?;
    }
    lock(shared).refresh()
}

fn lock(shared: &Mutex<Instances>) -> MutexGuard<'_, Instances> {
    // What a panic could leave half done is what a crash could: the intent is in the list.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
