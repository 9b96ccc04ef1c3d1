//! The local provider behind the protocol.

use std::path::Path;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use crate::protocol::{
    Call, Failure, FailureKind, Instance, InstanceState, Launch, MAX_LINE_BYTES, Offer, Outcome,
    PROTOCOL_VERSION, Reply, Request, Response,
};
use crate::{Error, LaunchRequest, LocalInstance, LocalProcess};

/// The only offer: this machine.
const OFFER: &str = "local";
/// Grace of a `terminate`: a node gives its vote back and stops its attempts within it.
const TERMINATE_GRACE: Duration = Duration::from_secs(10);

/// Answers the lines of `reader` on `writer` until the end of `reader`.
///
/// # Errors
/// The connection fails, or a line is no request.
pub async fn serve(
    local: &LocalProcess,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
) -> Result<(), Error> {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    let mut answers = FramedWrite::new(writer, LinesCodec::new());
    while let Some(line) = lines.next().await {
        let line = line.map_err(Error::Line)?;
        let request: Request = serde_json::from_str(&line).map_err(|source| Error::Question {
            line: line.chars().take(200).collect(),
            source,
        })?;
        let response = Response {
            version: PROTOCOL_VERSION,
            id: request.id,
            outcome: answer(local, request).await,
        };
        let text = serde_json::to_string(&response).map_err(Error::Encode)?;
        answers.send(text).await.map_err(connection)?;
    }
    Ok(())
}

async fn answer(local: &LocalProcess, request: Request) -> Outcome {
    if request.version != PROTOCOL_VERSION {
        let message = format!(
            "protocol version {} is unknown to this provider (it speaks {PROTOCOL_VERSION})",
            request.version
        );
        let kind = FailureKind::Invalid;
        return Outcome::Failed(Failure { kind, message });
    }
    match carry_out(local, request.call).await {
        Ok(reply) => Outcome::Ok(reply),
        Err(error) => Outcome::Failed(failure(&error)),
    }
}

async fn carry_out(local: &LocalProcess, call: Call) -> Result<Reply, Error> {
    match call {
        Call::Offers => Ok(Reply::Offers(vec![offer()?])),
        Call::Launch(launch) => {
            let request = to_local_request(launch, &local.directory());
            let launched = local.launch(request).await?;
            Ok(Reply::Launched(to_instance(launched)))
        }
        Call::Terminate { instance } => {
            local.terminate(&instance, TERMINATE_GRACE).await?;
            Ok(Reply::Terminated)
        }
        Call::List => {
            let instances = local.list().await?;
            Ok(Reply::Instances(
                instances.into_iter().map(to_instance).collect(),
            ))
        }
    }
}

fn to_local_request(launch: Launch, directory: &Path) -> LaunchRequest {
    LaunchRequest {
        // Checked by the launch before it is used as a path.
        log_file: directory.join(format!("{}.log", launch.client_token)),
        client_token: launch.client_token,
        arguments: launch.arguments,
        variables: launch.variables,
    }
}

fn to_instance(local: LocalInstance) -> Instance {
    Instance {
        id: local.id,
        client_token: local.client_token,
        offer: OFFER.to_owned(),
        state: if local.is_running {
            InstanceState::Running
        } else {
            InstanceState::Ended
        },
        addresses: vec!["127.0.0.1".to_owned()],
        launched_at: local.launched_at,
    }
}

fn offer() -> Result<Offer, Error> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
    let memory_kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok()) // told as a bad file below
        .ok_or_else(|| Error::read(path, std::io::ErrorKind::InvalidData.into()))?;
    // Unknown on no Linux that this runs on; one core is then still true.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Offer {
        name: OFFER.to_owned(),
        cpu_milli: u64::try_from(cores)
            .unwrap_or(u64::MAX)
            .saturating_mul(1_000),
        memory_bytes: memory_kib << 10,
        gpus: Vec::new(),
        price_microdollars_per_hour: 0,
        spot: false,
        zone: String::new(),
    })
}

/// What to tell of an error, with its causes.
fn failure(error: &Error) -> Failure {
    let kind = match error {
        Error::Token { .. } | Error::TokenReused { .. } => FailureKind::Invalid,
        Error::UnknownInstance { .. } => FailureKind::Unknown,
        Error::TooMany { .. } => FailureKind::NoCapacity,
        _ => FailureKind::Temporary,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Failure { kind, message }
}

/// A failed write of a line.
pub(crate) fn connection(error: LinesCodecError) -> Error {
    match error {
        LinesCodecError::Io(error) => Error::Connection(error),
        long @ LinesCodecError::MaxLineLengthExceeded => Error::Line(long),
    }
}
