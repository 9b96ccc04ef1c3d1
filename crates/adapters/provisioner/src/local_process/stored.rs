//! What the state file remembers.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use types::Timestamp;

use super::process::ProcessId;
use super::{LaunchRequest, LocalInstance};
use crate::Error;

/// Length of a provider's mark: 32 random bits tell the providers of one machine apart.
const MARK_LENGTH: usize = 8;

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Random, made with the file: part of every id, so that two providers on one machine never end each other's
    /// processes.
    mark: String,
    pub(super) instances: Vec<StoredInstance>,
}

impl Stored {
    /// Nothing launched yet.
    pub(super) fn new() -> Result<Self, Error> {
        let path = Path::new("/proc/sys/kernel/random/uuid");
        let mut mark = fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        mark.truncate(MARK_LENGTH);
        let instances = Vec::new();
        Ok(Self { mark, instances })
    }

    /// The id of what a client token launches here.
    pub(super) fn instance_id(&self, client_token: &str) -> String {
        format!("local-{}-{client_token}", self.mark)
    }
}

/// One launch, from its intent on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredInstance {
    pub(super) id: String,
    pub(super) client_token: String,
    arguments: Vec<String>,
    /// Names only: values may be secrets.
    variable_names: Vec<String>,
    log_file: PathBuf,
    launched_at: Timestamp,
    /// None between the intent and the start.
    pub(super) process: Option<ProcessId>,
    pub(super) has_ended: bool,
    pub(super) exit_code: Option<i32>,
}

impl StoredInstance {
    /// The intent.
    pub(super) fn new(id: String, request: &LaunchRequest, launched_at: Timestamp) -> Self {
        Self {
            id,
            client_token: request.client_token.clone(),
            arguments: request.arguments.clone(),
            variable_names: names(request),
            log_file: request.log_file.clone(),
            launched_at,
            process: None,
            has_ended: false,
            exit_code: None,
        }
    }

    /// Whether this request is a repeat of the launch.
    pub(super) fn is_launch_of(&self, request: &LaunchRequest) -> bool {
        self.arguments == request.arguments
            && self.variable_names == names(request)
            && self.log_file == request.log_file
    }

    pub(super) fn to_local(&self) -> LocalInstance {
        let pid = self.process.as_ref().map_or(0, |process| process.pid);
        LocalInstance {
            id: self.id.clone(),
            client_token: self.client_token.clone(),
            pid: u32::try_from(pid).expect("process ids are not negative"),
            is_running: !self.has_ended,
            exit_code: self.exit_code,
            launched_at: self.launched_at,
            log_file: self.log_file.clone(),
        }
    }
}

fn names(request: &LaunchRequest) -> Vec<String> {
    let names = request.variables.iter().map(|(name, _value)| name.clone());
    names.collect()
}
