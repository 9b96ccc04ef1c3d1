//! What was launched: in memory, in the state file, and as children of this process.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use types::Timestamp;

use super::ending::{kill_and_wait, sweep};
use super::process::{self, INSTANCE_VARIABLE, ProcessId};
use super::stored::{Stored, StoredInstance};
use super::{LaunchRequest, LocalInstance};
use crate::{Error, state_file};

/// Most instances that run at once: more processes than a person tries on one machine, and a launch loop gone
/// wild is stopped.
const MAX_RUNNING: usize = 256;
/// Ended instances that are remembered, so that a repeated token is still known: a day of busy trials.
const MAX_REMEMBERED: usize = 1_024;
#[derive(Debug)]
pub(super) struct Instances {
    program: PathBuf,
    pub(super) directory: PathBuf,
    stored: Stored,
    /// Those that this process started itself, and so must reap.
    children: BTreeMap<String, Child>,
    pub(super) kill_on_drop: bool,
    /// The open directory: holds the lock.
    locked: File,
}

impl Instances {
    pub(super) fn open(program: PathBuf, directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(|e| Error::write(&directory, e))?;
        let locked = File::open(&directory).map_err(|e| Error::read(&directory, e))?;
        locked.try_lock().map_err(|refused| Error::InUse {
            path: directory.clone(),
            source: refused.into(),
        })?;
        let stored = match state_file::read(&state_path(&directory))? {
            Some(stored) => stored,
            None => Stored::new()?,
        };
        let mut shared = Self {
            program,
            directory,
            stored,
            children: BTreeMap::new(),
            kill_on_drop: false,
            locked,
        };
        shared.recover()?;
        Ok(shared)
    }

    /// Finds the processes of launches that were cut off between the start and its record.
    fn recover(&mut self) -> Result<(), Error> {
        let is_open = |instance: &StoredInstance| instance.process.is_none() && !instance.has_ended;
        if !self.stored.instances.iter().any(is_open) {
            return Ok(());
        }
        for instance in self.stored.instances.iter_mut().filter(|i| is_open(i)) {
            instance.process = process::first_of_instance(&instance.id)?;
        }
        self.stored.instances.retain(|instance| !is_open(instance));
        self.save()
    }

    fn save(&self) -> Result<(), Error> {
        state_file::write(&state_path(&self.directory), &self.stored)
    }

    pub(super) fn launch(&mut self, request: &LaunchRequest) -> Result<LocalInstance, Error> {
        let token = &request.client_token;
        check_token(token)?;
        self.refresh()?;
        if let Some(known) = self
            .stored
            .instances
            .iter()
            .find(|i| i.client_token == *token)
        {
            if !known.is_launch_of(request) {
                let token = token.clone();
                return Err(Error::TokenReused { token });
            }
            return Ok(known.to_local());
        }
        let running = self
            .stored
            .instances
            .iter()
            .filter(|i| !i.has_ended)
            .count();
        if running >= MAX_RUNNING {
            return Err(Error::TooMany { limit: MAX_RUNNING });
        }
        self.forget_oldest();
        // The intent is on the disk before the process is: one that starts is never unknown.
        let id = self.stored.instance_id(token);
        self.stored
            .instances
            .push(StoredInstance::new(id.clone(), request, now()));
        let started = self.save().and_then(|()| self.start(&id, request));
        let instance = self
            .stored
            .instances
            .last_mut()
            .expect("it was pushed above, under the same lock");
        match started {
            Ok((child, process)) => {
                instance.process = Some(process);
                let local = instance.to_local();
                self.children.insert(id, child);
                self.save()?;
                Ok(local)
            }
            Err(error) => {
                self.stored.instances.pop();
                self.save()?;
                Err(error)
            }
        }
    }

    fn start(&self, id: &str, request: &LaunchRequest) -> Result<(Child, ProcessId), Error> {
        let log_path = &request.log_file;
        let open = || {
            let log = OpenOptions::new()
                .create(true)
                .append(true)
                .open(log_path)?;
            let errors = log.try_clone()?;
            Ok((log, errors))
        };
        let (log, errors) = open().map_err(|e| Error::write(log_path, e))?;
        let failed = |source| Error::Start {
            program: self.program.clone(),
            source,
        };
        let variables = request.variables.iter().map(|(name, value)| (name, value));
        let mut child = Command::new(&self.program)
            .args(&request.arguments)
            .envs(variables)
            .env(INSTANCE_VARIABLE, id)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        match process::of_child(&child) {
            Ok(process) => Ok((child, process)),
            Err(error) => {
                // Without its start time it could be confused later: better none than a doubtful one.
                child.kill().and_then(|()| child.wait()).map_err(failed)?;
                Err(error)
            }
        }
    }

    pub(super) fn list(&mut self) -> Result<Vec<LocalInstance>, Error> {
        self.refresh()?;
        Ok(self
            .stored
            .instances
            .iter()
            .map(StoredInstance::to_local)
            .collect())
    }

    /// Notes which instances have ended.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        let mut changed = false;
        for instance in self.stored.instances.iter_mut().filter(|i| !i.has_ended) {
            let ended = match self.children.get_mut(&instance.id) {
                Some(child) => process::reap(child, &instance.id)?.inspect(|code| {
                    instance.exit_code = Some(*code);
                }),
                None => match &instance.process {
                    Some(process) if process::is_running(process)? => None,
                    Some(_) | None => Some(0),
                },
            };
            if ended.is_some() {
                instance.has_ended = true;
                self.children.remove(&instance.id);
                changed = true;
            }
        }
        if changed { self.save() } else { Ok(()) }
    }

    fn forget_oldest(&mut self) {
        while self.stored.instances.len() >= MAX_REMEMBERED {
            let Some(oldest) = self.stored.instances.iter().position(|i| i.has_ended) else {
                return;
            };
            self.stored.instances.remove(oldest);
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<&StoredInstance, Error> {
        let found = self
            .stored
            .instances
            .iter()
            .find(|instance| instance.id == id);
        found.ok_or_else(|| Error::UnknownInstance { id: id.to_owned() })
    }
}

impl Instances {
    fn end_all(&mut self) {
        let running = self.stored.instances.iter().filter(|i| !i.has_ended);
        for instance in running {
            let ended = kill_and_wait(instance, None);
            if let Err(error) = ended.and_then(|()| sweep(&instance.id)) {
                tracing::warn!(instance_id = instance.id, %error, "instance was not ended");
            }
        }
        if let Err(error) = self.refresh() {
            // The next start finds out by itself that they have ended.
            tracing::warn!(%error, "ended instances were not noted");
        }
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        if self.kill_on_drop {
            self.end_all();
        }
        // Said, not left to the closing: a process that is being started just now holds a copy of the descriptor.
        if let Err(error) = self.locked.unlock() {
            tracing::warn!(%error, "provider directory was not unlocked");
        }
    }
}

fn check_token(token: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if token.is_empty() || token.len() > 64 || !token.chars().all(good) {
        let token = token.to_owned();
        return Err(Error::Token { token });
    }
    Ok(())
}

fn state_path(directory: &Path) -> PathBuf {
    directory.join("instances.json")
}

fn now() -> Timestamp {
    // Before 1970 the clock is plainly wrong; 0 says so better than no launch.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
