//! One build: places made, programs run, the result sealed; nothing is left of one that fails.

use std::collections::VecDeque;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{ConsoleStream, EnvironmentSpecV1, codec};

use super::flight::{Failure, Journal, Line, evidence, keep_last};
use super::order::BuildOrder;
use super::plan::{self, Builder, Places};
use super::python::Python;
use super::shelf::{self, Built};
use super::{Environments, index, proxied};
use crate::durable_file;
use crate::hold::{ROLE_BUILD, ROLE_VARIABLE};
use crate::job_user::{Confinement, give, make_passable};
use crate::remove_tree::remove_tree;

/// Lines that wait for the journal: it only copies them.
const LINES_WAITING: usize = 256;

/// A line without an end is cut here.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// What is to be built.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) spec: EnvironmentSpecV1,
    pub(super) key: String,
    pub(super) python: Python,
    pub(super) confinement: Confinement,
    /// What a job would see of the machine's variables.
    pub(super) variables: Vec<(String, String)>,
}

/// Builds it; what a failed or cancelled one left is removed.
pub(super) async fn build(
    environments: &Arc<Environments>,
    job: &Job,
    journal: &Journal,
    cancel: &CancellationToken,
) -> Result<Built, Failure> {
    let started = Instant::now();
    let limit = environments.config.time_limit;
    let work = built(environments, job, journal, cancel, started);
    let outcome = work.await;
    if let Err(failure) = &outcome {
        tracing::info!(
            ?failure,
            key = job.key,
            limit_s = limit.as_secs(),
            "environment not built"
        );
        let (own, key) = (Arc::clone(environments), job.key.clone());
        let removed = tokio::task::spawn_blocking(move || own.shelf.remove(&key)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, key = job.key, "what a failed build left stays until the next start");
        }
    }
    outcome
}

async fn built(
    environments: &Arc<Environments>,
    job: &Job,
    journal: &Journal,
    cancel: &CancellationToken,
    started: Instant,
) -> Result<Built, Failure> {
    let variables = environments.variables(job).await;
    let uv = tokio::select! {
        () = cancel.cancelled() => return Err(Failure::Cancelled),
        uv = environments.tools.uv(&job.python, &variables) => uv,
    };
    let (builder, name) = match uv {
        Ok(uv) => (Builder::Uv(uv), "uv"),
        Err(why) => {
            journal.say(format!("environment: no uv here ({why}): built by pip"));
            (Builder::Pip, "pip")
        }
    };
    journal.say(format!(
        "environment: {name} builds it with Python {}",
        job.python.version
    ));
    let places = Places {
        environment: environments.shelf.environment(&job.key),
        scratch: environments.shelf.place(&job.key).join("build"),
    };
    let steps = plan::steps(&job.spec, &builder, &job.python, &places)
        .map_err(|why| Failure::Build(vec![why]))?;
    let order = environments.order(job, steps, &places, variables);
    let (own, copy) = (Arc::clone(environments), job.clone());
    blocking(move || own.lay_out(&copy, &order)).await?;
    let (status, last) = run(environments, job, journal, cancel).await?;
    if !status.success() {
        return Err(Failure::Build(evidence(&last)));
    }
    let (own, key, python) = (
        Arc::clone(environments),
        job.key.clone(),
        job.python.version.clone(),
    );
    let name = name.to_owned();
    let built = blocking(move || {
        let written = std::fs::read_to_string(places.packages_file())?;
        let bytes = shelf::seal(&places.environment)?;
        remove_tree(&places.scratch)?;
        std::fs::remove_file(own.shelf.place(&key).join(BuildOrder::FILE))?;
        let built = Built {
            key,
            python,
            builder: name,
            packages: plan::read_packages(&written),
            bytes,
            build_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        own.shelf.put(&built)?;
        Ok(built)
    });
    let built = built.await?;
    journal.say(format!(
        "environment: built in {:.1} s, {} packages, {} MiB",
        started.elapsed().as_secs_f64(),
        built.packages.len(),
        built.bytes >> 20
    ));
    Ok(built)
}

impl Environments {
    /// Variables of the programs: the machine's, and where packages are.
    async fn variables(&self, job: &Job) -> Vec<(String, String)> {
        let mut variables = job.variables.clone();
        let settings = index::settings(&job.python, &self.index, &job.variables).await;
        variables.extend(proxied::through(self.config.index.as_ref(), settings));
        variables
    }

    fn order(
        &self,
        job: &Job,
        steps: Vec<Vec<String>>,
        places: &Places,
        mut variables: Vec<(String, String)>,
    ) -> BuildOrder {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let scratch = |name: &str| text(&places.scratch.join(name));
        let own = |name: &str, value: String| (name.to_owned(), value);
        variables.extend([
            own("HOME", scratch("home")),
            own("TMPDIR", scratch("tmp")),
            own("UV_CACHE_DIR", scratch("cache")),
            own("PIP_CACHE_DIR", scratch("cache")),
            own("UV_PYTHON_DOWNLOADS", "never".to_owned()),
            own("UV_NO_CONFIG", "1".to_owned()),
            own("UV_NO_PROGRESS", "1".to_owned()),
            own("UV_LINK_MODE", "copy".to_owned()),
            own("PIP_CONFIG_FILE", "/dev/null".to_owned()),
            own("PYTHONUNBUFFERED", "1".to_owned()),
            own("NO_COLOR", "1".to_owned()),
        ]);
        let mut confinement = job.confinement.clone();
        if self.config.tools.is_dir() {
            confinement.visible.push(text(&self.config.tools));
        }
        BuildOrder {
            steps,
            variables,
            working_directory: scratch("files"),
            confinement,
            writes: vec![text(&places.environment), text(&places.scratch)],
        }
    }

    /// Makes the places and the files, and gives them to whom the build runs as.
    fn lay_out(&self, job: &Job, order: &BuildOrder) -> io::Result<()> {
        let place = self.shelf.place(&job.key);
        self.shelf.remove(&job.key)?;
        std::fs::create_dir_all(&place)?;
        let scratch = place.join("build");
        for name in ["home", "tmp", "cache", "files"] {
            std::fs::create_dir_all(scratch.join(name))?;
        }
        let environment = self.shelf.environment(&job.key);
        std::fs::create_dir(&environment)?;
        for file in &job.spec.files {
            let path = scratch.join("files").join(&file.path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, &file.content)?;
        }
        for open in [&self.config.directory, &place] {
            make_passable(open)?;
        }
        if self.config.tools.is_dir() {
            std::fs::set_permissions(&self.config.tools, Permissions::from_mode(0o755))?;
        }
        if let Some(account) = &job.confinement.account {
            give(&environment, account)?;
            give(&scratch, account)?;
        }
        // Package indexes may be told with a password.
        durable_file::create(&place.join(BuildOrder::FILE), &codec::encode(order))?;
        Ok(())
    }
}

/// Runs the order until it ends, is cancelled or takes too long; its last lines.
async fn run(
    environments: &Environments,
    job: &Job,
    journal: &Journal,
    cancel: &CancellationToken,
) -> Result<(ExitStatus, VecDeque<String>), Failure> {
    let failed = |error: io::Error| Failure::machine("the build cannot be run", &error);
    let mut child = Command::new(&environments.program.path)
        .args(&environments.program.arguments)
        .arg(environments.shelf.place(&job.key))
        .env(ROLE_VARIABLE, ROLE_BUILD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Letting go of it ends the build: also when this process dies.
    let mut leash = child.stdin.take();
    let (sender, mut lines) = mpsc::channel(LINES_WAITING);
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        tokio::spawn(read_lines(stdout, sender.clone()));
        tokio::spawn(read_lines(stderr, sender));
    }
    let limit = environments.config.time_limit;
    let late = tokio::time::sleep(limit);
    tokio::pin!(late);
    let mut last = VecDeque::new();
    let mut stopped = None;
    loop {
        tokio::select! {
            () = cancel.cancelled(), if stopped.is_none() => {
                stopped = Some(Failure::Cancelled);
                leash = None;
            }
            () = &mut late, if stopped.is_none() => {
                let mut why = vec![format!("it took longer than {} min and was ended", limit.as_secs() / 60)];
                why.extend(evidence(&last));
                stopped = Some(Failure::Build(why));
                leash = None;
            }
            line = lines.recv() => match line {
                Some(text) => {
                    keep_last(&mut last, &text);
                    journal.add(Line { stream: ConsoleStream::Build, text });
                }
                None => break,
            },
        }
    }
    let status = child.wait().await.map_err(failed)?;
    drop(leash);
    match stopped {
        Some(failure) => Err(failure),
        None => Ok((status, last)),
    }
}

/// Sends what is read line by line, until the end of it or of those who listen. A line without an end is cut.
async fn read_lines(reader: impl AsyncRead + Unpin, sender: mpsc::Sender<String>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut piece = (&mut reader).take(MAX_LINE_BYTES);
        match piece.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return, // its end is told by its exit status
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        // A progress bar writes over its own line: what stands there at the end counts.
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        if sender.send(text.to_owned()).await.is_err() {
            return;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Failure::machine("its place cannot be made", &error)),
        Err(panicked) => Err(Failure::machine(
            "its place cannot be made",
            &io::Error::other(panicked),
        )),
    }
}
