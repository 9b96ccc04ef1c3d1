//! Node processes connected to this holder: usually one, two while one replaces another.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::protocol::{MAX_MESSAGE_BYTES, Notice, Request, frame, take_request};

/// Connections at once: a node process, its successor, and room for a person who looks.
const MAX_SUBSCRIBERS: usize = 8;
/// Unsent bytes after which a connection is cut: its node does not read, and finds everything in the files.
const MAX_UNSENT_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// One connection.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) stream: UnixStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Subscribers {
    pub(super) listener: UnixListener,
    pub(super) connected: Vec<Subscriber>,
}

impl Subscribers {
    pub(super) fn new(listener: UnixListener, node: Option<UnixStream>) -> Self {
        let mut subscribers = Self {
            listener,
            connected: Vec::new(),
        };
        if let Some(stream) = node {
            subscribers.add(stream);
        }
        subscribers
    }

    fn add(&mut self, stream: UnixStream) {
        self.connected.push(Subscriber {
            stream,
            received: Vec::new(),
            unsent: Vec::new(),
        });
    }

    /// Takes waiting connections and greets each with `greeting`.
    pub(super) fn accept(&mut self, greeting: &[Notice]) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _address)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            if self.connected.len() >= MAX_SUBSCRIBERS {
                self.connected.remove(0);
            }
            self.add(stream);
            let newest = self.connected.last_mut().expect("one was just added");
            for notice in greeting {
                newest.unsent.extend_from_slice(&frame(notice));
            }
            self.flush();
        }
    }

    /// Requests that have arrived; connections that ended or talk nonsense are cut.
    pub(super) fn requests(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        self.connected
            .retain_mut(|subscriber| subscriber.receive(&mut requests).is_ok());
        requests
    }

    /// Tells everybody.
    pub(super) fn tell(&mut self, notice: &Notice) {
        let bytes = frame(notice);
        for subscriber in &mut self.connected {
            subscriber.unsent.extend_from_slice(&bytes);
        }
        self.flush();
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) {
        self.connected
            .retain_mut(|subscriber| subscriber.send().is_ok());
    }
}

impl Subscriber {
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Everything that has arrived; an error means that the connection is of no more use.
    fn receive(&mut self, requests: &mut Vec<Request>) -> io::Result<()> {
        let mut buffer = [0; 4 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(request) = take_request(&mut self.received)? {
                requests.push(request);
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.unsent.len() > MAX_UNSENT_BYTES {
            return Err(io::Error::other("the node does not read"));
        }
        Ok(())
    }
}
