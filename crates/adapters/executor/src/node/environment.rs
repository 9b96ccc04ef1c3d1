//! The environment of a job: nothing is inherited but what a program needs to run at all.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use types::GpuShare;

use super::StartAttempt;
use super::build::Packages;
use crate::job_user::{Account, open_path};
use crate::python;

/// What is passed on from the node's own environment, besides `LC_*`.
const INHERITED: [&str; 4] = ["PATH", "HOME", "USER", "LANG"];
/// Where programs are if the node was started without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Thousandths of a whole GPU.
const WHOLE_GPU: u64 = 1_000;

/// The node's own variables that jobs inherit.
pub(super) fn host_variables() -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))) // not text: not passed on
        .filter(|(name, _value)| INHERITED.contains(&name.as_str()) || name.starts_with("LC_"))
        .collect();
    if !variables.iter().any(|(name, _value)| name == "PATH") {
        variables.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    variables
}

/// The whole environment of an attempt, later ones first to win: host, defaults, the experiment's, the
/// node's additions, identity.
pub(super) fn variables(
    host: &[(String, String)],
    start: &StartAttempt,
    (temporary, machine_name): (&str, &str),
    account: Option<&Account>,
    mps_directory: &Path,
    packages: Option<&Packages>,
) -> Vec<(String, String)> {
    let wanted = &start.wanted;
    let own = |name: &str, value: String| (name.to_owned(), value);
    let resources = &wanted.resources;
    let mut variables = host.to_vec();
    variables.push(own("TMPDIR", temporary.to_owned()));
    if let Some(account) = account {
        for (_, value) in variables.iter_mut().filter(|(name, _)| name == "PATH") {
            *value = open_path(account, value);
        }
        variables.push(own("HOME", home_of(account, temporary)));
        variables.push(own("USER", account.name.clone()));
        variables.push(own("LOGNAME", account.name.clone()));
    }
    if let Some(packages) = packages {
        packages.add_to(&mut variables);
    }
    // Otherwise Python keeps lines back and nobody sees metrics until the end.
    variables.push(own("PYTHONUNBUFFERED", "1".to_owned()));
    let threads = resources.cpu_milli.div_ceil(1_000).max(1);
    variables.push(own("OMP_NUM_THREADS", threads.to_string()));
    if !resources.gpus.is_empty() {
        let numbers = resources.gpus.iter().map(|share| share.index.0.to_string());
        let visible = match start.gpus.is_empty() {
            true => numbers.collect(),
            false => start.gpus.clone(),
        };
        variables.push(own("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()));
        variables.push(own("CUDA_VISIBLE_DEVICES", visible.join(",")));
    }
    variables.extend(mps_variables(&resources.gpus, mps_directory));
    variables.extend(wanted.spec.filled_variables());
    variables.extend_from_slice(&start.variables);
    let token = &wanted.token;
    variables.push(own("MUSTER_EXPERIMENT_ID", token.experiment.to_string()));
    variables.push(own("MUSTER_ATTEMPT", token.attempt.to_string()));
    variables.push(own("MUSTER_RANK", wanted.rank.to_string()));
    variables.push(own("MUSTER_NODES", wanted.spec.resources.nodes.to_string()));
    // Names the processes of this very attempt, should its holder ever be gone.
    variables.push(own(MACHINE_NAME_VARIABLE, machine_name.to_owned()));
    python::name_in(&mut variables, Path::new(temporary));
    // Names that no environment can hold would make the command fail to start for a reason that nobody sees.
    variables.retain(|(name, value)| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    });
    variables
}

/// For a job that shares a GPU on a machine where MPS runs: through it, with its share of the GPU's threads.
fn mps_variables(gpus: &[GpuShare], directory: &Path) -> Vec<(String, String)> {
    let shared = gpus.iter().find(|share| share.milli < WHOLE_GPU);
    let (Some(share), Some(path), true) = (shared, directory.to_str(), directory.is_dir()) else {
        return Vec::new();
    };
    let percent = share.milli.div_ceil(WHOLE_GPU / 100).max(1);
    let own = |name: &str, value: String| (name.to_owned(), value);
    vec![
        own("CUDA_MPS_PIPE_DIRECTORY", path.to_owned()),
        own("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percent.to_string()),
    ]
}

/// The account's own, or where it may write if it has none: programs keep caches there.
fn home_of(account: &Account, temporary: &str) -> String {
    let facts = Path::new(&account.home).metadata();
    if facts.is_ok_and(|facts| facts.is_dir() && facts.uid() == account.uid) {
        account.home.clone()
    } else {
        temporary.to_owned()
    }
}

/// Carries the name of the attempt on this machine.
pub(super) const MACHINE_NAME_VARIABLE: &str = "MUSTER_ATTEMPT_NAME";

/// Lets only this user in: orders hold variables, which may be secrets.
pub(super) fn restrict(directory: &Path) -> io::Result<()> {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}
