//! A person takes a late success for the result of an experiment.

use state_machine::{AcceptLate, Command, Experiment};
use types::{Author, RequestId};

use crate::author::Caller;
use crate::call::{Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::submit::unexpected;
use crate::view::{Answer, ExperimentSummary};

impl Handle {
    /// Ends an experiment as finished by the success of an attempt that had been given up; without a number, by that of
    /// the newest such attempt.
    ///
    /// # Errors
    /// It is unknown, somebody else's, finished, or runs; or no attempt of it has a late success.
    pub async fn accept_late(
        &self,
        caller: &Caller,
        id: &str,
        attempt: Option<u32>,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        let request = Request::AcceptLate {
            id: id.to_owned(),
            attempt,
        };
        match self.call(caller, request, None).await? {
            Reply::Summary(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_accept_late(
        &self,
        author: &Author,
        request_id: RequestId,
        text: &str,
        attempt: Option<u32>,
    ) -> Result<Answer<ExperimentSummary>, ServiceError> {
        self.freshen(crate::ReadOptions::default()).await?;
        let id = self.resolve(text)?;
        self.refuse_foreign(author, id)?;
        let state = self.inner.consensus.state();
        let newest = state.experiment(id).and_then(|one| newest_late(one));
        let Some(attempt) = attempt.or(newest) else {
            let message = format!("no attempt of {id} has a late success");
            let error = ServiceError::new(ErrorKind::Conflict, "nothing-late", message);
            return Err(error.hint(format!(
                "`muster show {id}` lists what its attempts came to"
            )));
        };
        let command = Command::AcceptLate(AcceptLate {
            experiment: id,
            attempt,
        });
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        self.summary_at(id, index)
    }
}

fn newest_late(experiment: &Experiment) -> Option<u32> {
    let mut attempts = experiment.attempts.iter().rev();
    let late = attempts.find(|attempt| {
        let end = attempt.late.as_ref();
        end.is_some_and(|end| end.cause.is_success())
    });
    late.map(|attempt| attempt.token.attempt)
}
