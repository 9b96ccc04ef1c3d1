//! The directory of one attempt: who is where, and whether a holder lives.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use types::{AttemptToken, Incarnation, LogIndex, codec};

use crate::durable_file;
use crate::error::Error;
use crate::job_user::Confinement;
use crate::stored::{Ended, Exit, GpuTerms, MAX_STORED_BYTES, Order, OrderV1, Status, WholeOrder};

/// Paths of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct AttemptDirectory {
    /// `<attempts>/<token>`.
    pub(crate) root: PathBuf,
}

impl AttemptDirectory {
    pub(crate) fn new(attempts: &Path, token: &AttemptToken) -> Self {
        Self {
            root: attempts.join(token.directory_name()),
        }
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What it was given by requests, to be kept with its outputs.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(crate) fn order(&self) -> PathBuf {
        self.root.join("order")
    }

    pub(crate) fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    pub(crate) fn exit(&self) -> PathBuf {
        self.root.join("exit")
    }

    /// Why the command could not be started, left by the launching process.
    pub(crate) fn launch_error(&self) -> PathBuf {
        self.root.join("launch-error")
    }

    pub(crate) fn holder_log(&self) -> PathBuf {
        self.root.join("holder.log")
    }

    pub(crate) fn read_order(&self) -> Result<Option<OrderV1>, Error> {
        Ok(self.read_whole_order()?.map(|(order, _, _)| order))
    }

    pub(crate) fn read_whole_order(&self) -> Result<Option<WholeOrder>, Error> {
        let order: Option<Order> = read_stored(&self.order())?;
        Ok(order.map(|order| match order {
            Order::V1(order) => (order, Confinement::default(), None),
            Order::V2(order, confinement) => (order, confinement, None),
            Order::V3(order, confinement, terms) => (order, confinement, Some(terms)),
        }))
    }

    /// The order, and what was given of the GPUs, if the order tells.
    pub(crate) fn read_terms(&self) -> Result<Option<(OrderV1, Option<GpuTerms>)>, Error> {
        let whole = self.read_whole_order()?;
        Ok(whole.map(|(order, _, terms)| (order, terms)))
    }

    pub(crate) fn read_status(&self) -> Result<Option<Status>, Error> {
        read_stored(&self.status())
    }

    pub(crate) fn read_exit(&self) -> Result<Option<Ended>, Error> {
        let exit: Option<Exit> = read_stored(&self.exit())?;
        Ok(exit.map(|Exit::V1(ended)| ended))
    }

    pub(crate) fn write_exit(&self, ended: &Ended) -> io::Result<()> {
        let bytes = codec::encode(&Exit::V1(ended.clone()));
        durable_file::replace(&self.exit(), &bytes)
    }

    /// Takes the lock that a living holder owns: whoever has it decides whether the attempt runs. None if another has it.
    pub(crate) fn try_lock(&self) -> io::Result<Option<File>> {
        let file = File::open(self.order())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A short path to the holder's socket: the real one may be longer than a socket address holds (108
    /// bytes), the one through the open directory never is. Valid while the returned file is open.
    pub(crate) fn socket(&self) -> io::Result<(File, PathBuf)> {
        let directory = File::open(&self.root)?;
        let path = format!("/proc/self/fd/{}/hold.sock", directory.as_raw_fd());
        Ok((directory, PathBuf::from(path)))
    }
}

fn read_stored<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes =
        durable_file::read_if_there(path, MAX_STORED_BYTES).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
    bytes
        .map(|bytes| codec::decode(&bytes, MAX_STORED_BYTES))
        .transpose()
        .map_err(|source| Error::Decode {
            path: path.to_owned(),
            source,
        })
}

/// The token that names a directory; none if the name is not one of [`AttemptToken::directory_name`].
pub(crate) fn parse_directory_name(name: &str) -> Option<AttemptToken> {
    let mut parts = name.split('-');
    // What does not parse is not ours: none, as documented.
    let token = AttemptToken {
        experiment: parts.next()?.parse().ok()?,
        attempt: parts.next()?.parse().ok()?,
        incarnation: Incarnation(parts.next()?.parse().ok()?),
        placed_at: LogIndex(parts.next()?.parse().ok()?),
    };
    (parts.next().is_none() && token.directory_name() == name).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ExperimentId;

    #[test]
    fn directory_names_and_only_they_parse_back() {
        let token = AttemptToken {
            incarnation: Incarnation(3),
            experiment: ExperimentId::from_bits(77_777),
            attempt: 2,
            placed_at: LogIndex(900),
        };
        assert_eq!(parse_directory_name(&token.directory_name()), Some(token));
        for other in [
            "",
            "lost+found",
            "0000000a-1-1",
            "0000000a-01-1-1",
            "0000000a-1-1-1-1",
        ] {
            assert_eq!(parse_directory_name(other), None, "{other}");
        }
    }
}
