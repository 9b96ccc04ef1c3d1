//! The one-way door: after one failed fsync or checksum nothing is acknowledged any more.

use tokio::sync::watch;

use crate::error::{Error, chain};

/// Shared by everything that can fail; the first report stays.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    line: watch::Sender<Option<String>>,
}

impl Failure {
    pub(crate) fn new() -> Self {
        Self {
            line: watch::Sender::new(None),
        }
    }

    /// Records why this node must stop.
    pub(crate) fn report(&self, why: impl Into<String>) {
        let why = why.into();
        self.line.send_if_modified(|line| {
            if line.is_some() {
                return false;
            }
            tracing::error!(error = why, "storage failed, this node must stop");
            *line = Some(why);
            true
        });
    }

    /// Records `error` and hands it on in openraft's form.
    pub(crate) fn report_error(&self, error: Error) -> std::io::Error {
        self.report(chain(&error));
        error.into_io()
    }

    pub(crate) fn why(&self) -> Option<String> {
        self.line.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.line.subscribe()
    }
}
