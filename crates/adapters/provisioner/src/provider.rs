//! The client: a provider process, spoken to in JSON lines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec};

use crate::Error;
use crate::orders::OrderGate;
use crate::protocol::{
    Call, Instance, Launch, MAX_LINE_BYTES, Offer, Order, Outcome, PROTOCOL_VERSION, Reply,
    Request, Response,
};
use crate::serve::connection;

/// Questions that may wait for the loop: a leader asks a few at a time.
const MAX_QUEUED: usize = 64;
/// Longest line of the provider's own log that is kept.
const MAX_LOG_LINE_BYTES: usize = 8 << 10;

/// The provider process.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Program that speaks the protocol on its standard input and output.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment variables beside the inherited ones.
    pub variables: Vec<(String, String)>,
    /// File that remembers the newest order.
    pub orders_file: PathBuf,
    /// Longest wait for an answer.
    pub deadline: Duration,
}

impl ProviderConfig {
    /// Default of [`ProviderConfig::deadline`]: a cloud that throttles is asked again by its kit for about a minute.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(90);
}

/// Asks the provider process; clones share it.
#[derive(Clone, Debug)]
pub struct Provider {
    questions: mpsc::Sender<Question>,
    deadline: Duration,
}

#[derive(Debug)]
struct Question {
    order: Option<Order>,
    call: Call,
    answer: oneshot::Sender<Result<Reply, Error>>,
}

/// Starts the provider process and returns the loop that talks to it. The process is killed when the loop is
/// dropped; the loop ends when all clones of the [`Provider`] are dropped. Needs a tokio runtime.
///
/// # Errors
/// The program cannot be started, or the orders file cannot be read.
pub fn start(
    config: ProviderConfig,
) -> Result<(Provider, impl Future<Output = Result<(), Error>> + Send), Error> {
    let gate = OrderGate::open(config.orders_file)?;
    let failed = |source| Error::Start {
        program: config.program.clone(),
        source,
    };
    let mut child = Command::new(&config.program)
        .args(&config.arguments)
        .envs(config.variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let no_pipe = || failed(std::io::ErrorKind::BrokenPipe.into());
    let stdin = child.stdin.take().ok_or_else(no_pipe)?;
    let stdout = child.stdout.take().ok_or_else(no_pipe)?;
    let stderr = child.stderr.take().ok_or_else(no_pipe)?;
    let (questions, asked) = mpsc::channel(MAX_QUEUED);
    let conversation = Conversation {
        child,
        requests: FramedWrite::new(stdin, LinesCodec::new()),
        responses: FramedRead::new(stdout, LinesCodec::new_with_max_length(MAX_LINE_BYTES)),
        log: FramedRead::new(stderr, LinesCodec::new_with_max_length(MAX_LOG_LINE_BYTES)),
        asked,
        open: BTreeMap::new(),
        next_id: 1,
        gate: Some(gate),
        deadline: config.deadline,
    };
    let provider = Provider {
        questions,
        deadline: config.deadline,
    };
    Ok((provider, conversation.run()))
}

impl Provider {
    /// What could be launched.
    ///
    /// # Errors
    /// The provider refused, did not answer in time, or has ended.
    pub async fn offers(&self) -> Result<Vec<Offer>, Error> {
        match self.ask(None, Call::Offers).await? {
            Reply::Offers(offers) => Ok(offers),
            _ => Err(Error::OutOfTurn { call: "offers" }),
        }
    }

    /// Starts a machine; a repeat of the client token starts no second one.
    ///
    /// # Errors
    /// As [`Provider::offers`], or the order is older than one that was carried out.
    pub async fn launch(&self, order: Order, launch: Launch) -> Result<Instance, Error> {
        match self.ask(Some(order), Call::Launch(launch)).await? {
            Reply::Launched(instance) => Ok(instance),
            _ => Err(Error::OutOfTurn { call: "launch" }),
        }
    }

    /// Stops a machine for good; [`Provider::list`] tells when it is gone.
    ///
    /// # Errors
    /// As [`Provider::launch`].
    pub async fn terminate(&self, order: Order, instance: String) -> Result<(), Error> {
        let call = Call::Terminate { instance };
        match self.ask(Some(order), call).await? {
            Reply::Terminated => Ok(()),
            _ => Err(Error::OutOfTurn { call: "terminate" }),
        }
    }

    /// What was launched, ended ones for a while.
    ///
    /// # Errors
    /// As [`Provider::offers`].
    pub async fn list(&self) -> Result<Vec<Instance>, Error> {
        match self.ask(None, Call::List).await? {
            Reply::Instances(instances) => Ok(instances),
            _ => Err(Error::OutOfTurn { call: "list" }),
        }
    }

    async fn ask(&self, order: Option<Order>, call: Call) -> Result<Reply, Error> {
        let name = call.name();
        let (answer, answered) = oneshot::channel();
        let question = Question {
            order,
            call,
            answer,
        };
        let conversation = async {
            let asked = self.questions.send(question).await;
            asked.map_err(|_loop_ended| Error::Ended)?;
            answered.await.map_err(|_loop_ended| Error::Ended)?
        };
        tokio::time::timeout(self.deadline, conversation)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Error::Deadline {
                    call: name,
                    seconds: self.deadline.as_secs(),
                })
            })
    }
}

struct Conversation {
    child: Child,
    requests: FramedWrite<ChildStdin, LinesCodec>,
    responses: FramedRead<ChildStdout, LinesCodec>,
    log: FramedRead<ChildStderr, LinesCodec>,
    asked: mpsc::Receiver<Question>,
    /// Questions without an answer yet. Their askers give up at the deadline, so that few are open.
    open: BTreeMap<u64, oneshot::Sender<Result<Reply, Error>>>,
    next_id: u64,
    /// None only while an order is being written down.
    gate: Option<OrderGate>,
    deadline: Duration,
}

impl Conversation {
    async fn run(mut self) -> Result<(), Error> {
        let mut log_ended = false;
        loop {
            tokio::select! {
                question = self.asked.recv() => match question {
                    Some(question) => self.ask(question).await?,
                    None => return self.close().await,
                },
                line = self.responses.next() => match line {
                    Some(line) => self.hear(&line.map_err(Error::Line)?)?,
                    None => return Err(Error::Ended),
                },
                line = self.log.next(), if !log_ended => match line {
                    Some(line) => log(line),
                    None => log_ended = true,
                },
            }
        }
    }

    async fn ask(&mut self, question: Question) -> Result<(), Error> {
        self.open.retain(|_id, asker| !asker.is_closed());
        if let Some(order) = question.order
            && let Err(refused) = self.admit(order).await?
        {
            // The asker may have given up meanwhile: then nobody needs the refusal.
            drop(question.answer.send(Err(refused)));
            return Ok(());
        }
        let id = self.next_id;
        self.next_id += 1;
        let request = Request {
            version: PROTOCOL_VERSION,
            id,
            order: question.order,
            call: question.call,
        };
        self.open.insert(id, question.answer);
        let text = serde_json::to_string(&request).map_err(Error::Encode)?;
        // A process that does not read is as good as ended.
        let sent = tokio::time::timeout(self.deadline, self.requests.send(text)).await;
        sent.map_or(
            Err(Error::Deadline {
                call: request.call.name(),
                seconds: self.deadline.as_secs(),
            }),
            |sent| sent.map_err(connection),
        )
    }

    /// Passes the order through the gate, on a thread that may block.
    async fn admit(&mut self, order: Order) -> Result<Result<(), Error>, Error> {
        let mut gate = self
            .gate
            .take()
            .expect("orders are admitted one after another");
        let admitted = spawn_blocking(move || {
            let admitted = gate.admit(order);
            (gate, admitted)
        });
        let (gate, admitted) = admitted.await.map_err(Error::Task)?;
        self.gate = Some(gate);
        Ok(admitted)
    }

    fn hear(&mut self, line: &str) -> Result<(), Error> {
        let response: Response = serde_json::from_str(line).map_err(|source| Error::Answer {
            line: line.chars().take(200).collect(),
            source,
        })?;
        if response.version != PROTOCOL_VERSION {
            return Err(Error::ProtocolVersion {
                found: response.version,
                known: PROTOCOL_VERSION,
            });
        }
        let Some(asker) = self.open.remove(&response.id) else {
            tracing::debug!(id = response.id, "provider answered too late");
            return Ok(());
        };
        let answer = match response.outcome {
            Outcome::Ok(reply) => Ok(reply),
            Outcome::Failed(failure) => Err(Error::Refused(failure)),
        };
        // The asker may have given up at this moment: then the answer is late.
        drop(asker.send(answer));
        Ok(())
    }

    /// Lets the process end by itself, as its input has; after the deadline it is killed.
    async fn close(self) -> Result<(), Error> {
        let Self {
            mut child,
            requests,
            deadline,
            ..
        } = self;
        drop(requests);
        let ended = tokio::time::timeout(deadline, child.wait()).await;
        match ended {
            Ok(status) => status.map(|_status| ()),
            Err(_elapsed) => child.kill().await,
        }
        .map_err(Error::Connection)
    }
}

/// Passes a line of the provider's log on.
fn log(line: Result<String, tokio_util::codec::LinesCodecError>) {
    match line {
        Ok(line) => tracing::info!(line, "provider says"),
        Err(error) => tracing::warn!(%error, "line of the provider's log was dropped"),
    }
}
