//! Orders of an older leader are refused.

use std::path::PathBuf;

use crate::protocol::Order;
use crate::{Error, state_file};

/// Remembers the newest order, across restarts.
#[derive(Debug)]
pub(crate) struct OrderGate {
    path: PathBuf,
    newest: Option<Order>,
}

impl OrderGate {
    /// The gate with what the file at `path` remembers.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let newest = state_file::read(&path)?;
        Ok(Self { path, newest })
    }

    /// Lets an order through that is not older than any before, once that is remembered durably.
    pub(crate) fn admit(&mut self, given: Order) -> Result<(), Error> {
        match self.newest {
            Some(newest) if given < newest => Err(Error::OlderOrder { given, newest }),
            Some(newest) if given == newest => Ok(()),
            Some(_) | None => {
                state_file::write(&self.path, &given)?;
                self.newest = Some(given);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Incarnation, LogIndex};

    fn order(incarnation: u64, log_index: u64) -> Order {
        Order {
            incarnation: Incarnation(incarnation),
            log_index: LogIndex(log_index),
        }
    }

    #[test]
    fn older_order_is_refused_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("orders.json");
        let mut gate = OrderGate::open(path.clone()).unwrap();
        gate.admit(order(1, 5)).unwrap();
        gate.admit(order(1, 5)).unwrap();
        gate.admit(order(2, 1)).unwrap();
        let mut gate = OrderGate::open(path).unwrap();
        let refused = gate.admit(order(1, 900)).unwrap_err();
        assert!(matches!(refused, Error::OlderOrder { .. }));
        assert!(
            refused.to_string().contains("1/900 is older than 2/1"),
            "{refused}"
        );
        gate.admit(order(2, 2)).unwrap();
    }
}
