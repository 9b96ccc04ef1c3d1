//! The steps of the demonstration.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use provisioner::{LaunchRequest, LocalInstance, LocalProcess};
use serde_json::Value;

use super::example::Example;
use super::{Client, say, until};

/// Time for a step on a slow, busy machine.
const STEP: Duration = Duration::from_secs(30);
/// Time for the training.
const TRAINING: Duration = Duration::from_secs(60);
/// Time between asking a node to end and killing it.
const GRACE: Duration = Duration::from_secs(3);
const NAMES: [&str; 3] = ["anna", "berta", "carl"];

/// Three nodes and how to talk to them.
pub(super) struct Cluster {
    directory: PathBuf,
    program: PathBuf,
    processes: LocalProcess,
    port: Option<u16>,
    nodes: Vec<Node>,
}

struct Node {
    name: &'static str,
    instance: LocalInstance,
    client: Client,
    alive: bool,
}

impl Cluster {
    pub(super) fn new(
        directory: &Path,
        program: PathBuf,
        processes: LocalProcess,
        port: Option<u16>,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            program,
            processes,
            port,
            nodes: Vec::new(),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// One node makes the cluster, two join by token; then all three vote.
    pub(super) async fn start_nodes(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        self.launch(NAMES[0], &["--new"]).await?;
        say(&format!(
            "{} is up (process {}) and makes a cluster",
            NAMES[0], self.nodes[0].instance.pid
        ))?;
        let token = self.nodes[0]
            .client
            .json(&["token", "new", "--uses", "2"], &self.directory)
            .await?;
        let token = token["token"]
            .as_str()
            .context("no token in the answer")?
            .to_owned();
        for name in &NAMES[1..] {
            self.launch(name, &["--join", &token]).await?;
            let pid = self.nodes[self.nodes.len() - 1].instance.pid;
            say(&format!(
                "{name} is up (process {pid}) and joined with a token that {} made",
                NAMES[0]
            ))?;
        }
        let first = &self.nodes[0];
        until("three voters", STEP, || async {
            let nodes = first.client.json(&["nodes"], &self.directory).await?;
            let ready = |node: &Value| {
                node["health"] == "live" && (node["role"] == "voter" || node["role"] == "leader")
            };
            let count = nodes["nodes"]
                .as_array()
                .map_or(0, |nodes| nodes.iter().filter(|node| ready(node)).count());
            Ok((count == NAMES.len()).then_some(()))
        })
        .await?;
        say(&format!(
            "all three vote: any one of them may fail ({:.1} s since the start)",
            began.elapsed().as_secs_f64()
        ))
    }

    async fn launch(&mut self, name: &'static str, how: &[&str]) -> anyhow::Result<()> {
        let data = self.directory.join(name);
        let socket = self.directory.join(format!("{name}.sock"));
        let port = self.port.map_or(0, |first| {
            first + u16::try_from(self.nodes.len()).unwrap_or(0)
        });
        let path = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("the temporary directory's path is no text")
        };
        let mut arguments: Vec<String> =
            ["up", "--name", name, "--listen", "127.0.0.1:0", "--no-mdns"]
                .map(str::to_owned)
                .into();
        arguments.extend([
            "--data-dir".to_owned(),
            path(&data)?,
            "--socket".to_owned(),
            path(&socket)?,
        ]);
        arguments.extend(["--port".to_owned(), port.to_string()]);
        arguments.extend(how.iter().map(|&word| word.to_owned()));
        let log_file = self.directory.join(format!("{name}.log"));
        let request = LaunchRequest {
            client_token: name.to_owned(),
            arguments,
            variables: vec![("MUSTER_DISK_RESERVE".to_owned(), "64MiB".to_owned())],
            log_file: log_file.clone(),
        };
        let instance = self.processes.launch(request).await?;
        let client = Client::new(&self.program, socket);
        until(&format!("{name} to answer"), STEP, || async {
            let list = self.processes.list().await?;
            if !list
                .iter()
                .any(|known| known.id == instance.id && known.is_running)
            {
                let log = std::fs::read_to_string(&log_file).unwrap_or_default();
                return Ok(Some(Err(anyhow!("{name} ended: {log}"))));
            }
            Ok(client
                .json(&["nodes", "--stale"], &self.directory)
                .await
                .ok() // Not up yet.
                .map(|_| Ok(())))
        })
        .await??;
        self.nodes.push(Node {
            name,
            instance,
            client,
            alive: true,
        });
        Ok(())
    }

    /// Submits at the second node; where it runs is the scheduler's decision.
    pub(super) async fn submit(&self, example: &Example) -> anyhow::Result<String> {
        let node = &self.nodes[1];
        let mut arguments = vec![
            "run", "--name", "digits", "--cpus", "1", "--memory", "512MiB", "--",
        ];
        arguments.extend(example.command.iter().map(String::as_str));
        let reply = node.client.json(&arguments, &example.directory).await?;
        let id = reply["id"]
            .as_str()
            .context("no id in the answer")?
            .to_owned();
        say(&format!("submitted at {}: experiment {id}", node.name))?;
        Ok(id)
    }

    /// Waits for its first line of output and says where it runs and why there.
    pub(super) async fn wait_until_running(&self, id: &str) -> anyhow::Result<String> {
        let client = &self.nodes[1].client;
        let runner = until("the experiment to start", STEP, || async {
            let shown = client.json(&["show", id], &self.directory).await?;
            let summary = &shown["summary"];
            match summary["state"].as_str() {
                Some("running") => Ok(summary["node"]["name"].as_str().map(str::to_owned)),
                Some("failed" | "finished" | "stopped") => {
                    bail!("it is {}: {}", summary["state"], summary["reason"])
                }
                _ => Ok(None),
            }
        })
        .await?;
        let why = client.json(&["why", id], &self.directory).await?;
        say(&format!(
            "it runs: {}",
            why["summary"].as_str().unwrap_or_default()
        ))?;
        until("its first metric", STEP, || async {
            let logs = client.text(&["logs", id], &self.directory).await?;
            Ok(logs
                .lines()
                .find(|line| line.starts_with("metric:"))
                .map(str::to_owned))
        })
        .await
        .and_then(|line| {
            say(&format!(
                "its output, read at {}: {line}",
                self.nodes[1].name
            ))
        })?;
        Ok(runner)
    }

    async fn leader(&self, client: &Client) -> anyhow::Result<String> {
        let nodes = client.json(&["nodes", "--stale"], &self.directory).await?;
        let nodes = nodes["nodes"]
            .as_array()
            .context("no nodes in the answer")?;
        let leader = nodes
            .iter()
            .find(|node| node["role"] == "leader")
            .context("nobody leads")?;
        Ok(leader["name"].as_str().unwrap_or_default().to_owned())
    }

    /// SIGKILL to the leader's node process; says who leads after how many milliseconds, and that a write works.
    pub(super) async fn kill_the_leader(&mut self, id: &str, runner: &str) -> anyhow::Result<()> {
        let leader = self.leader(&self.nodes[1].client).await?;
        let victim = self
            .nodes
            .iter_mut()
            .find(|node| node.name == leader)
            .context("the leader is none of ours")?;
        say(&format!(
            "kill -9 {} ({leader}, which leads)",
            victim.instance.pid
        ))?;
        let killed = Instant::now();
        self.processes.kill(&victim.instance.id).await?;
        victim.alive = false;
        let witness = self
            .nodes
            .iter()
            .find(|node| node.alive)
            .context("no node is left")?;
        let next = until("another leader", STEP, || async {
            let next = self.leader(&witness.client).await?;
            Ok((next != leader).then_some(next))
        })
        .await?;
        say(&format!(
            "{next} leads after {} ms",
            killed.elapsed().as_millis()
        ))?;
        witness
            .client
            .json(
                &[
                    "run",
                    "--name",
                    "after-the-kill",
                    "--cpus",
                    "0",
                    "--no-source",
                    "--",
                    "true",
                ],
                &self.directory,
            )
            .await?;
        say(&format!(
            "a submission at {} is accepted {} ms after the kill",
            witness.name,
            killed.elapsed().as_millis()
        ))?;
        if runner == leader {
            say(&format!(
                "the experiment was on {leader}: its process lives on there without its node; we start the node again, and it adopts it"
            ))?;
            self.restart(&leader).await?;
        }
        let shown = self
            .alive()?
            .client
            .json(&["show", id], &self.directory)
            .await?;
        say(&format!(
            "the experiment is {} on {runner}, attempt {}",
            shown["summary"]["state"].as_str().unwrap_or("?"),
            shown["summary"]["attempts"]
        ))
    }

    async fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self
            .nodes
            .iter()
            .position(|node| node.name == name)
            .context("no such node")?;
        let old = self.nodes.remove(at);
        let data = self.directory.join(old.name);
        let path = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("the temporary directory's path is no text")
        };
        let arguments = vec![
            "up".to_owned(),
            "--name".to_owned(),
            old.name.to_owned(),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--no-mdns".to_owned(),
            "--data-dir".to_owned(),
            path(&data)?,
            "--socket".to_owned(),
            path(old.client.socket())?,
            "--port".to_owned(),
            "0".to_owned(),
        ];
        let request = LaunchRequest {
            client_token: format!("{}-again", old.name),
            arguments,
            variables: vec![("MUSTER_DISK_RESERVE".to_owned(), "64MiB".to_owned())],
            log_file: self.directory.join(format!("{}.log", old.name)),
        };
        let instance = self.processes.launch(request).await?;
        until("the node to answer again", STEP, || async {
            Ok(old
                .client
                .json(&["nodes", "--stale"], &self.directory)
                .await
                .ok()
                .map(drop)) // Not up yet.
        })
        .await?;
        self.nodes.push(Node {
            instance,
            alive: true,
            ..old
        });
        Ok(())
    }

    fn alive(&self) -> anyhow::Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.alive)
            .context("no node is left")
    }

    /// Waits for the end and checks at another node than the one that ran it that no line is missing.
    pub(super) async fn wait_for_the_end(
        &self,
        id: &str,
        runner: &str,
        example: &Example,
    ) -> anyhow::Result<()> {
        let reader = self
            .nodes
            .iter()
            .find(|node| node.alive && node.name != runner)
            .context("no other node is left")?;
        let client = &reader.client;
        let summary = until("the end of the training", TRAINING, || async {
            let shown = client.json(&["show", id], &self.directory).await?;
            Ok((!shown["summary"]["ended_at"].is_null()).then(|| shown["summary"].clone()))
        })
        .await?;
        if summary["state"] != "finished" {
            bail!("the experiment {}: {}", summary["state"], summary["reason"]);
        }
        let logs = client.text(&["logs", id], &self.directory).await?;
        let steps: Vec<u64> = logs
            .lines()
            .filter_map(|line| line.rsplit_once("step=")?.1.trim().parse().ok())
            .collect();
        if !steps.iter().copied().eq(1..=example.epochs) {
            bail!(
                "the recorded output is not complete: epochs {steps:?} of {}",
                example.epochs
            );
        }
        let last = logs.lines().last().unwrap_or_default();
        say(&format!(
            "it finished in attempt {}; all {} epochs are recorded, read at {}: {last}",
            summary["attempts"],
            steps.len(),
            reader.name
        ))
    }

    /// How to go on by hand.
    pub(super) fn show_urls(&self) -> anyhow::Result<()> {
        for node in self.nodes.iter().filter(|node| node.alive) {
            let log = std::fs::read_to_string(self.directory.join(format!("{}.log", node.name)))
                .unwrap_or_default();
            let url = log
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("API "))
                .and_then(|rest| rest.split_whitespace().next());
            say(&format!(
                "{}: {}   {} --node {} ls --all",
                node.name,
                url.unwrap_or("?"),
                self.program.display(),
                node.client.socket().display()
            ))?;
        }
        Ok(())
    }

    /// The end of each node's log, after a failure.
    pub(super) fn show_logs(&self) -> anyhow::Result<()> {
        for name in NAMES {
            let log = std::fs::read_to_string(self.directory.join(format!("{name}.log")))
                .unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(8)..] {
                say(&format!("{name}: {line}"))?;
            }
        }
        Ok(())
    }

    /// Ends the nodes and what they run.
    pub(super) async fn stop(&self) {
        for node in &self.nodes {
            if let Err(error) = self.processes.terminate(&node.instance.id, GRACE).await {
                tracing::debug!(%error, "node not terminated");
            }
        }
    }
}
