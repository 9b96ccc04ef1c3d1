//! Three or five real nodes of this build, and clients of their HTTP interface.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::exchange::{Piece, connect_http1, read_whole};
use crate::load::Writer;
use crate::process::{Server, disk_bytes, end_all_below};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster");
const NAMES: [&str; 5] = ["anna", "berta", "carl", "dora", "emil"];
/// Longest wait for a step of the cluster's making: far beyond what a loaded machine takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three nodes or five; killed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    directory: TempDir,
    nodes: Vec<Node>,
    token: String,
    /// A source tree that the cluster keeps, as a submission names it.
    source: Value,
}

#[derive(Debug)]
struct Node {
    name: &'static str,
    server: Server,
    address: SocketAddr,
}

impl Cluster {
    /// Starts so many nodes, joins them by token, waits until all vote, and stores a source tree. Five of five vote only
    /// because they are told to: by rule three of them would.
    pub(crate) async fn start(voters: usize) -> anyhow::Result<Self> {
        Self::start_with(voters, &[]).await
    }

    /// The same with settings for each node, as variables.
    pub(crate) async fn start_with(
        voters: usize,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let names = NAMES
            .get(..voters)
            .context("there are names for five nodes")?;
        let directory = tempfile::tempdir().context("make a directory")?;
        let first = Node::start(directory.path(), names[0], &["--new"], settings).await?;
        let mut nodes = vec![first];
        let join = command_line(directory.path(), &["token", "new", "--uses", "4"]).await?;
        let join = text(&join["token"])?;
        for name in &names[1..] {
            let how = ["--join", &join];
            nodes.push(Node::start(directory.path(), name, &how, settings).await?);
        }
        for name in names.iter().filter(|_| voters > 3) {
            command_line(directory.path(), &["node", "promote", name]).await?;
        }
        let user = ["user", "token", "bench", "--role", "admin"];
        let token = text(&command_line(directory.path(), &user).await?["token"])?;
        let mut cluster = Self {
            directory,
            nodes,
            token,
            source: Value::Null,
        };
        cluster.wait_until_whole().await?;
        cluster.store_source().await?;
        Ok(cluster)
    }

    /// Submits from a directory with the command line, which stores its tree, and asks what it is called.
    async fn store_source(&mut self) -> anyhow::Result<()> {
        let tree = self.directory.path().join("tree");
        std::fs::create_dir(&tree)?;
        std::fs::write(tree.join("train.py"), "print('hello')\n".repeat(200))?;
        let path = tree.to_str().context("the directory's path is no text")?;
        let words = [
            "run", "--source", path, "--cpus", "4000", "--name", "source", "--", "true",
        ];
        let id = text(&command_line(self.directory.path(), &words).await?["id"])?;
        let leader = self.leader().await?;
        let mut client = self.client(leader).await?;
        let detail = client
            .get(&format!("/api/v1/experiments/{id}"))
            .await
            .context("look at the first experiment")?;
        self.source = detail["source"].clone();
        // Each node has it then, and knows that it is stored twice.
        self.warm_source().await
    }

    /// Submits the source tree once at each node.
    pub(crate) async fn warm_source(&self) -> anyhow::Result<()> {
        for node in 0..self.nodes.len() {
            let mut client = self.client(node).await?;
            client
                .submit(&self.unplaceable(), &fresh_key("warm"))
                .await?;
        }
        Ok(())
    }

    /// Waits until all nodes are live and vote.
    pub(crate) async fn wait_until_whole(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut last = String::new();
        loop {
            match self.live_voters().await {
                Ok(count) if count == self.nodes.len() => return Ok(()),
                Ok(count) => last = format!("{count} live voters"),
                Err(error) => last = format!("{error:#}; before: {last}"),
            }
            if began.elapsed() > PATIENCE {
                bail!("all voters were not there within {PATIENCE:?}: {last}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn live_voters(&self) -> anyhow::Result<usize> {
        let mut least = usize::MAX;
        for node in 0..self.nodes.len() {
            let view = self.client(node).await?.get("/api/v1/nodes").await?;
            let live = |node: &&Value| {
                node["health"] == "live" && (node["role"] == "voter" || node["role"] == "leader")
            };
            let nodes = view["nodes"].as_array().context("no list of nodes")?;
            least = least.min(nodes.iter().filter(live).count());
        }
        Ok(least)
    }

    /// The term of office as the first node knows it: elections count it up.
    pub(crate) async fn term(&self) -> anyhow::Result<u64> {
        let view = self.client(0).await?.get("/api/v1/cluster").await?;
        view["term"].as_u64().context("no term in the answer")
    }

    /// Number of the node that leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        let view = self.client(0).await?.get("/api/v1/cluster").await?;
        let name = text(&view["leader"]["name"]).context("nobody leads")?;
        let found = self.nodes.iter().position(|node| node.name == name);
        found.context("an unknown node leads")
    }

    /// Number of the node of this name.
    pub(crate) fn number_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Numbers of all nodes but one.
    pub(crate) fn others(&self, one: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| *node != one).collect()
    }

    /// A new connection to a node.
    pub(crate) async fn client(&self, node: usize) -> anyhow::Result<Client> {
        Client::connect(self.nodes[node].address, &self.token).await
    }

    /// Connections to one node, each of which submits what cannot be placed.
    pub(crate) async fn writers(
        &self,
        node: usize,
        count: usize,
    ) -> anyhow::Result<Vec<Submitter>> {
        let mut writers = Vec::with_capacity(count);
        for _ in 0..count {
            writers.push(Submitter {
                client: self.client(node).await?,
                body: self.unplaceable(),
            });
        }
        Ok(writers)
    }

    /// A submission that waits for ever.
    pub(crate) fn unplaceable(&self) -> Bytes {
        self.submission("bench", &["true".to_owned()], 4_000_000)
    }

    /// A submission with the stored source tree.
    pub(crate) fn submission(&self, name: &str, command: &[String], cpu_milli: u64) -> Bytes {
        let request = json!({
            "name": name,
            "command": command,
            "source": self.source,
            "resources": { "cpu_milli": cpu_milli, "memory_bytes": 64 << 20 },
        });
        request.to_string().into()
    }

    /// SIGKILL for a node's process.
    pub(crate) fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].server.kill()
    }

    /// SIGKILL for a node and for all that it started, as when its machine dies. Gives the number of processes.
    pub(crate) async fn kill_machine(&mut self, node: usize) -> anyhow::Result<usize> {
        end_all_below(&self.directory.path().join(self.nodes[node].name)).await
    }

    /// Starts a node again that was killed.
    pub(crate) async fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].server.ended().await?;
        let name = self.nodes[node].name;
        self.nodes[node] = Node::start(self.directory.path(), name, &[], &[]).await?;
        Ok(())
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.nodes.iter().map(|node| &node.server)
    }

    /// Bytes of all nodes' data directories.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let directory = |node: &Node| disk_bytes(&self.directory.path().join(node.name));
        self.nodes.iter().map(directory).sum()
    }

    /// Leaves the directories where they are and says where that is.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Node {
    async fn start(
        directory: &Path,
        name: &'static str,
        how: &[&str],
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let out = directory.join(format!("{name}.out"));
        let log = directory.join(format!("{name}.log"));
        std::fs::write(&out, b"")?;
        let mut command = Command::new(PROGRAM);
        command
            .args(["up", "--name", name, "--listen", "127.0.0.1:0"])
            .args(["--port", "0", "--no-mdns", "--data-dir"])
            .arg(directory.join(name))
            .arg("--socket")
            .arg(socket(directory, name))
            .args(how)
            // All that it starts is known by this.
            .env("HOME", directory.join(name))
            .envs(settings.iter().copied())
            .current_dir(directory);
        let mut server = Server::start(command, &out, &log)?;
        let began = Instant::now();
        loop {
            let said = std::fs::read_to_string(&out)?;
            if let Some(address) = address_in(&said) {
                return Ok(Self {
                    name,
                    server,
                    address,
                });
            }
            if server.has_ended() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                bail!("{name} did not come up: {last:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn socket(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.sock"))
}

/// The address in `API http://ADDRESS   command line: …`.
fn address_in(said: &str) -> Option<SocketAddr> {
    let (_, rest) = said.split_once("API http://")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The command line at the first node, as a person uses it.
async fn command_line(directory: &Path, words: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(PROGRAM);
    command
        .arg("--node")
        .arg(socket(directory, NAMES[0]))
        .arg("--json")
        .args(words)
        .current_dir(directory)
        .kill_on_drop(true);
    let done = command.output().await.context("run the command line")?;
    if !done.status.success() {
        bail!(
            "muster {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    serde_json::from_slice(&done.stdout).context("the command line printed no JSON")
}

fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().context("no text in the answer")?.to_owned())
}

/// A name for a submission that nobody used before.
pub(crate) fn fresh_key(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::new_v4().simple())
}

/// One connection to one node.
#[derive(Debug)]
pub(crate) struct Client {
    sender: SendRequest<Piece>,
    host: String,
    authorization: String,
}

impl Client {
    async fn connect(address: SocketAddr, token: &str) -> anyhow::Result<Self> {
        Ok(Self {
            sender: connect_http1(address).await?,
            host: address.to_string(),
            authorization: format!("Bearer {token}"),
        })
    }

    /// Submits; an error if the node does not acknowledge it.
    pub(crate) async fn submit(&mut self, body: &Bytes, key: &str) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/experiments")
            .header("idempotency-key", key)
            .header(CONTENT_TYPE, "application/json");
        let (status, answer) = self.send(request, body.clone()).await?;
        if status != StatusCode::CREATED {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Submits and says what the experiment is called.
    pub(crate) async fn submit_for_id(
        &mut self,
        body: &Bytes,
        key: &str,
    ) -> anyhow::Result<String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/experiments")
            .header("idempotency-key", key)
            .header(CONTENT_TYPE, "application/json");
        let (status, answer) = self.send(request, body.clone()).await?;
        if status != StatusCode::CREATED {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
        let answer: Value = serde_json::from_slice(&answer)?;
        text(&answer["id"])
    }

    /// Asks for a change.
    pub(crate) async fn post_json(&mut self, path: &str, body: &Value) -> anyhow::Result<()> {
        let request = Request::builder().method(Method::POST).uri(path);
        let request = request.header(CONTENT_TYPE, "application/json");
        let (status, answer) = self.send(request, body.to_string().into()).await?;
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Asks for a change without a body.
    pub(crate) async fn post(&mut self, path: &str) -> anyhow::Result<()> {
        let request = Request::builder().method(Method::POST).uri(path);
        let (status, answer) = self.send(request, Bytes::new()).await?;
        if !status.is_success() {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let request = Request::builder().method(Method::GET).uri(path);
        let (status, answer) = self.send(request, Bytes::new()).await?;
        if status != StatusCode::OK {
            bail!("{status}: {}", String::from_utf8_lossy(&answer));
        }
        serde_json::from_slice(&answer).context("the answer is no JSON")
    }

    async fn send(
        &mut self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = request
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.authorization)
            .body(Piece::new(body))?;
        self.sender
            .ready()
            .await
            .context("the connection is gone")?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let (answer, _) = read_whole(response.into_body()).await?;
        Ok((status, answer))
    }
}

/// Submits again and again.
#[derive(Debug)]
pub(crate) struct Submitter {
    client: Client,
    body: Bytes,
}

impl Writer for Submitter {
    async fn write(&mut self) -> anyhow::Result<()> {
        self.client.submit(&self.body, &fresh_key("load")).await
    }
}
