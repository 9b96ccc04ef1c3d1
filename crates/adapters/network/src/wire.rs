//! How an answer, a request and a failure look on the wire.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::StreamProtocol;

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answer(Bytes),
    Failed(Failure),
}

/// Why the other end gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Busy,
    NotAnswered,
    AnswerTooLarge,
    NotMember,
}

impl Failure {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NotAnswered => "not-answered",
            Self::AnswerTooLarge => "answer-too-large",
            Self::NotMember => "not-a-member",
        }
    }
}

const ANSWER: u8 = 0;

impl Outcome {
    /// Byte that stands for it; the rest is the answer.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Answer(_) => ANSWER,
            Self::Failed(Failure::Busy) => 1,
            Self::Failed(Failure::NotAnswered) => 2,
            Self::Failed(Failure::AnswerTooLarge) => 3,
            Self::Failed(Failure::NotMember) => 4,
        }
    }

    pub(crate) fn body(&self) -> Bytes {
        match self {
            Self::Answer(bytes) => bytes.clone(),
            Self::Failed(_) => Bytes::new(),
        }
    }

    pub(crate) fn new(status: u8, body: Bytes) -> io::Result<Self> {
        Ok(match status {
            ANSWER => Self::Answer(body),
            1 => Self::Failed(Failure::Busy),
            2 => Self::Failed(Failure::NotAnswered),
            3 => Self::Failed(Failure::AnswerTooLarge),
            4 => Self::Failed(Failure::NotMember),
            other => return Err(invalid(format!("answer status {other} is unknown"))),
        })
    }
}

/// What a request-response request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To be answered by the owner.
    Call(Bytes),
    /// A report of the sender, acknowledged with an empty answer.
    Report(Bytes),
}

/// Reads and writes `length: u32 LE | kind: u8 | body`, with a limit on either side.
#[derive(Clone, Debug)]
pub(crate) struct RequestCodec {
    pub(crate) max_request: usize,
    pub(crate) max_answer: usize,
}

impl libp2p::request_response::Codec for RequestCodec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Outcome;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let (kind, body) = read_message(io, self.max_request).await?;
        match kind {
            0 => Ok(Request::Call(body)),
            1 => Ok(Request::Report(body)),
            other => Err(invalid(format!("request kind {other} is unknown"))),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Outcome>
    where
        T: AsyncRead + Unpin + Send,
    {
        let (status, body) = read_message(io, self.max_answer).await?;
        Outcome::new(status, body)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let (kind, body) = match request {
            Request::Call(body) => (0, body),
            Request::Report(body) => (1, body),
        };
        write_message(io, kind, &body).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        outcome: Outcome,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, outcome.status(), &outcome.body()).await
    }
}

async fn read_message<T>(io: &mut T, limit: usize) -> io::Result<(u8, Bytes)>
where
    T: AsyncRead + Unpin + Send,
{
    let mut header = [0; 5];
    io.read_exact(&mut header).await?;
    let length = length(&header, limit)?;
    Ok((header[4], read_body(io, length).await?))
}

async fn write_message<T>(io: &mut T, kind: u8, body: &[u8]) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let mut message = BytesMut::with_capacity(5 + body.len());
    message.put_u32_le(length_field(body.len())?);
    message.put_u8(kind);
    message.put_slice(body);
    io.write_all(&message).await
}

/// The length in the first four bytes of a header, if the reader accepts so much.
pub(crate) fn length(header: &[u8], limit: usize) -> io::Result<usize> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    match usize::try_from(length) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(invalid(format!(
            "message of {length} bytes is over the limit of {limit}"
        ))),
    }
}

pub(crate) fn length_field(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Memory given to a message before its bytes have come: a length alone costs no more than this.
const READ_AHEAD: usize = 64 << 10;

/// Reads exactly `length` bytes, growing as they come.
pub(crate) async fn read_body<T>(io: &mut T, length: usize) -> io::Result<Bytes>
where
    T: AsyncRead + Unpin + Send,
{
    let mut body = Vec::with_capacity(length.min(READ_AHEAD));
    io.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body.into())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;

    fn codec() -> RequestCodec {
        RequestCodec {
            max_request: 16,
            max_answer: 16,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        block_on(async {
            for request in [
                Request::Call(Bytes::from_static(b"ask")),
                Request::Report(Bytes::new()),
            ] {
                let mut io = Cursor::new(Vec::new());
                codec()
                    .write_request(&crate::protocol::RPC, &mut io, request.clone())
                    .await
                    .unwrap();
                let mut io = Cursor::new(io.into_inner());
                let read = codec().read_request(&crate::protocol::RPC, &mut io).await;
                assert_eq!(read.unwrap(), request);
            }
            for outcome in [
                Outcome::Answer(Bytes::from_static(b"yes")),
                Outcome::Failed(Failure::Busy),
                Outcome::Failed(Failure::NotAnswered),
                Outcome::Failed(Failure::AnswerTooLarge),
                Outcome::Failed(Failure::NotMember),
            ] {
                assert_eq!(
                    Outcome::new(outcome.status(), outcome.body()).unwrap(),
                    outcome
                );
            }
        });
    }

    #[test]
    fn a_length_over_the_limit_or_the_bytes_is_an_error() {
        block_on(async {
            let mut long = Cursor::new([17, 0, 0, 0, 0].to_vec());
            let error = codec()
                .read_request(&crate::protocol::RPC, &mut long)
                .await
                .unwrap_err();
            assert!(error.to_string().contains("limit of 16"), "{error}");
            let mut short = Cursor::new([9, 0, 0, 0, 0, 1].to_vec());
            let error = codec()
                .read_request(&crate::protocol::RPC, &mut short)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}

/// Reads bytes as a request and as an answer.
#[cfg(fuzzing)]
pub(crate) async fn fuzz(bytes: &[u8]) {
    let mut io = futures::io::Cursor::new(bytes.to_vec());
    if let Ok((_kind, body)) = read_message(&mut io, crate::MAX_RPC_ANSWER_BYTES).await {
        assert!(body.len() <= bytes.len());
    }
}
