//! What is known of an experiment before it is submitted: what earlier runs teach, and whether anything can run it.

use types::{ExperimentSpec, RequestId, ResourceRequest};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::learning::Unstated;
use crate::submit::spec_of;
use crate::view::SubmitRequest;

impl Handle {
    /// What a request asks for, with what earlier runs teach about the rest, and that in words.
    pub(crate) fn spec_for(
        &self,
        request: SubmitRequest,
    ) -> Result<(ExperimentSpec, Vec<String>), ServiceError> {
        let unstated = Unstated::of(&request);
        let preferred = self.preferred(&request.prefer_nodes)?;
        let mut spec = spec_of(request)?;
        spec.prefer_nodes = preferred;
        let learned = unstated.learn(&self.inner.consensus.state(), &mut spec);
        Ok((spec, learned))
    }

    /// What its submitter should know of the chances of such an experiment.
    pub(crate) async fn prospects(
        &self,
        request_id: RequestId,
        resources: &ResourceRequest,
        fail_if_impossible: bool,
    ) -> Result<Vec<String>, ServiceError> {
        let possible = self.possible_ever(resources);
        let risk = self.stop_risk(&self.inner.consensus.state());
        let mut warnings: Vec<_> = risk.into_iter().collect();
        if let Err(why) = possible {
            // A repeat of one that was accepted is answered with that, whatever machines have gone since.
            if fail_if_impossible && !self.has_answered(request_id).await? {
                let error = ServiceError::new(
                    ErrorKind::Conflict,
                    "impossible",
                    format!("no node could ever run it: {why}"),
                );
                return Err(error.hint("ask for less, or leave out --fail-if-impossible to let it wait for a machine that can"));
            }
            warnings.push(format!(
                "the cluster could not run it even when empty ({why}): it waits until it can"
            ));
        }
        Ok(warnings)
    }
}
