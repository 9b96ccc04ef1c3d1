//! Three members of etcd, and clients that put by gRPC, written here so that they cost what ours cost.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::header::{CONTENT_TYPE, TE};
use hyper::{Method, Request};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::exchange::{Piece, connect_http2, read_whole};
use crate::load::Writer;
use crate::process::{Server, disk_bytes};
use crate::protobuf::{Value, field, put_bytes};

const MEMBERS: usize = 3;
/// Bytes of a value: about what a submission is in the log.
const VALUE_BYTES: usize = 256;
/// Keys of one client, written in turn.
const KEYS_PER_CLIENT: u32 = 1_000;
/// Longest wait for a step of the cluster's making.
const PATIENCE: Duration = Duration::from_secs(30);

/// Three members; killed when dropped.
#[derive(Debug)]
pub(crate) struct Etcd {
    directory: TempDir,
    program: std::path::PathBuf,
    ports: Vec<(u16, u16)>,
    extra: Vec<String>,
    servers: Vec<Server>,
}

impl Etcd {
    /// Starts three members on free ports, with further flags.
    pub(crate) async fn start(program: &Path, extra: &[&str]) -> anyhow::Result<Self> {
        let mut etcd = Self {
            directory: tempfile::tempdir().context("make a directory")?,
            program: program.to_owned(),
            ports: free_ports(MEMBERS)?,
            extra: extra.iter().map(|&word| word.to_owned()).collect(),
            servers: Vec::new(),
        };
        for member in 0..MEMBERS {
            etcd.servers.push(etcd.launch(member)?);
        }
        etcd.wait_until_whole().await?;
        Ok(etcd)
    }

    fn launch(&self, member: usize) -> anyhow::Result<Server> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = self.ports[member];
        let members: Vec<_> = (0..MEMBERS)
            .map(|other| format!("m{other}={}", url(self.ports[other].1)))
            .collect();
        let mut command = Command::new(&self.program);
        command
            .arg("--name")
            .arg(format!("m{member}"))
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("m{member}")))
            .args(["--listen-client-urls", &url(client)])
            .args(["--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer)])
            .args(["--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &members.join(",")])
            .args(["--initial-cluster-state", "new"])
            .args(&self.extra)
            .current_dir(self.directory.path());
        let log = self.directory.path().join(format!("m{member}.log"));
        Server::start(command, &log, &log)
    }

    /// Waits until a put through each member is acknowledged.
    pub(crate) async fn wait_until_whole(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut member = 0;
        while member < MEMBERS {
            let put = async { self.client(member).await?.put("whole").await };
            match tokio::time::timeout(Duration::from_secs(2), put).await {
                Ok(Ok(())) => member += 1,
                failed if began.elapsed() > PATIENCE => {
                    bail!("etcd's member {member} took no put within {PATIENCE:?}: {failed:?}")
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Ok(())
    }

    /// Number of the member that leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        for member in 0..MEMBERS {
            if self.client(member).await?.leads().await? {
                return Ok(member);
            }
        }
        bail!("no member of etcd leads")
    }

    pub(crate) fn others(&self, one: usize) -> Vec<usize> {
        (0..self.servers.len())
            .filter(|member| *member != one)
            .collect()
    }

    pub(crate) async fn client(&self, member: usize) -> anyhow::Result<Client> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports[member].0));
        Ok(Client {
            sender: connect_http2(address).await?,
            address,
        })
    }

    /// Connections to one member, each of which puts.
    pub(crate) async fn writers(&self, member: usize, count: u32) -> anyhow::Result<Vec<Putter>> {
        let mut writers = Vec::new();
        for number in 0..count {
            writers.push(Putter {
                client: self.client(member).await?,
                number,
                puts: 0,
            });
        }
        Ok(writers)
    }

    pub(crate) fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        self.servers[member].kill()
    }

    pub(crate) async fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        self.servers[member].ended().await?;
        self.servers[member] = self.launch(member)?;
        Ok(())
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter()
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        let directory = |member| disk_bytes(&self.directory.path().join(format!("m{member}")));
        (0..MEMBERS).map(directory).sum()
    }
}

/// Pairs of ports that nobody listens on now.
fn free_ports(pairs: usize) -> anyhow::Result<Vec<(u16, u16)>> {
    let bind = || TcpListener::bind("127.0.0.1:0").context("find a free port");
    // All held at once, so that no port comes twice.
    let listeners = (0..pairs)
        .map(|_| Ok((bind()?, bind()?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    listeners
        .iter()
        .map(|(one, other)| Ok((one.local_addr()?.port(), other.local_addr()?.port())))
        .collect()
}

/// One connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    sender: SendRequest<Piece>,
    address: SocketAddr,
}

impl Client {
    /// Puts a value of the usual size.
    pub(crate) async fn put(&mut self, key: &str) -> anyhow::Result<()> {
        let mut message = Vec::with_capacity(VALUE_BYTES + 64);
        put_bytes(&mut message, 1, key.as_bytes());
        put_bytes(&mut message, 2, &[b'x'; VALUE_BYTES]);
        self.call("/etcdserverpb.KV/Put", &message).await.map(drop)
    }

    async fn leads(&mut self) -> anyhow::Result<bool> {
        let status = self.call("/etcdserverpb.Maintenance/Status", &[]).await?;
        let Some(Value::Bytes(header)) = field(&status, 1) else {
            bail!("etcd's status has no header");
        };
        let (member, leader) = (field(header, 2), field(&status, 4));
        Ok(member.is_some() && member == leader)
    }

    /// A unary gRPC call: one message there, one back, the outcome in the trailers.
    async fn call(&mut self, path: &str, message: &[u8]) -> anyhow::Result<Bytes> {
        let mut framed = Vec::with_capacity(message.len() + 5);
        framed.push(0);
        framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        framed.extend_from_slice(message);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Piece::new(framed.into()))?;
        self.sender
            .ready()
            .await
            .context("the connection is gone")?;
        let response = self.sender.send_request(request).await?;
        let head = response.headers().clone();
        let (answer, trailers) = read_whole(response.into_body()).await?;
        // An outcome without a message comes in the head.
        let status = trailers
            .get("grpc-status")
            .or_else(|| head.get("grpc-status"));
        match status.map(|status| status.as_bytes()) {
            Some(b"0") => Ok(answer.slice(5.min(answer.len())..)),
            other => bail!("grpc-status {other:?} {:?}", trailers.get("grpc-message")),
        }
    }
}

/// Puts again and again.
#[derive(Debug)]
pub(crate) struct Putter {
    client: Client,
    number: u32,
    puts: u32,
}

impl Writer for Putter {
    async fn write(&mut self) -> anyhow::Result<()> {
        let key = format!(
            "bench/{:04}/{:08}",
            self.number,
            self.puts % KEYS_PER_CLIENT
        );
        self.puts += 1;
        self.client.put(&key).await
    }
}
