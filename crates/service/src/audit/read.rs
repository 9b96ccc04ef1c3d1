//! Reading the whole ledger: its hot end and its sealed files.

use std::time::Duration;

use futures::future::join_all;
use state_machine::{
    ARCHIVE_ENTRIES, ArchiveContent, ArchiveRef, ClusterState, LedgerEntry, decode_archive,
};
use types::{BlobHash, ClusterId, ExperimentId, NodeId};

use super::{head_bytes, record_of, to_hex};
use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{ledger_view, node_ref};
use crate::handle::Handle;
use crate::peer_message::{PeerMessage, PeerReply};
use crate::submit::unexpected;
use crate::view::{
    Answer, Attestation, LedgerEntryView, LedgerFilter, LedgerHead, LedgerPage, SilentReplica,
};

/// Lines when the client names no number: a few screens.
const DEFAULT_LINES: u64 = 100;
/// Most lines in one answer.
const MAX_LINES: u64 = 10_000;
/// Most records of one page: below the limit of a message between nodes with details of 1 KiB each.
const MAX_RECORDS: u64 = 2_048;
/// Time in which a replica signs the head: it may first have to apply what the others have.
const ATTEST_DEADLINE: Duration = Duration::from_secs(3);
/// How long a replica waits to reach the head: less than the asker's patience.
const ATTEST_PATIENCE: Duration = Duration::from_secs(2);

impl Handle {
    /// The newest ledger entries that the filter lets through, oldest first.
    ///
    /// # Errors
    /// No such experiment, or no majority answers.
    pub async fn ledger(
        &self,
        caller: &Caller,
        filter: LedgerFilter,
        read: ReadOptions,
    ) -> Result<Answer<Vec<LedgerEntryView>>, ServiceError> {
        match self
            .call(caller, Request::Ledger(filter, read), None)
            .await?
        {
            Reply::Ledger(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Ledger records from a number on, with all that their hashes cover.
    ///
    /// # Errors
    /// No majority answers, or a sealed file is damaged here.
    pub async fn ledger_records(
        &self,
        caller: &Caller,
        from: u64,
        limit: u64,
        read: ReadOptions,
    ) -> Result<Answer<LedgerPage>, ServiceError> {
        let request = Request::LedgerRecords { from, limit, read };
        match self.call(caller, request, None).await? {
            Reply::LedgerRecords(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// The end of the ledger with the signatures of all replicas that have the same.
    ///
    /// # Errors
    /// No majority answers.
    pub async fn ledger_head(
        &self,
        caller: &Caller,
        read: ReadOptions,
    ) -> Result<Answer<LedgerHead>, ServiceError> {
        match self.call(caller, Request::LedgerHead(read), None).await? {
            Reply::LedgerHead(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// The newest entries that the filter lets through, oldest first; sealed files are read as far back as needed.
    pub(crate) async fn read_ledger(
        &self,
        filter: &LedgerFilter,
        read: ReadOptions,
    ) -> Result<Answer<Vec<LedgerEntryView>>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let experiment = match &filter.experiment {
            Some(text) => Some(self.find(text).await?.id),
            None => None,
        };
        let limit = match filter.limit {
            0 => DEFAULT_LINES,
            limit => limit.min(MAX_LINES),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let state = self.inner.consensus.state();
        let mut body = Vec::new();
        take_matching(
            &state,
            filter,
            experiment,
            state.ledger().rev(),
            limit,
            &mut body,
        );
        let files: Vec<ArchiveRef> = state.ledger_archives().rev().cloned().collect();
        for file in files {
            if body.len() >= limit {
                break;
            }
            let entries = self.ledger_file(&file).await?;
            if entries
                .last()
                .is_some_and(|entry| filter.since.is_some_and(|since| entry.at.0 < since))
            {
                break;
            }
            take_matching(
                &state,
                filter,
                experiment,
                entries.iter().rev(),
                limit,
                &mut body,
            );
        }
        body.reverse();
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body,
        })
    }

    /// Records from `from` on, as stored.
    pub(crate) async fn read_ledger_records(
        &self,
        from: u64,
        limit: u64,
        read: ReadOptions,
    ) -> Result<Answer<LedgerPage>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let limit = usize::try_from(limit.clamp(1, MAX_RECORDS)).unwrap_or(usize::MAX);
        let skip = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let records = if from >= state.first_hot_sequence() {
            let hot = state.ledger().skip(skip(from - state.first_hot_sequence()));
            hot.take(limit).map(record_of).collect()
        } else {
            let number = skip(from) / ARCHIVE_ENTRIES;
            let file = state.ledger_archives().nth(number).cloned();
            let file =
                file.ok_or_else(|| damaged(format!("no sealed file holds record {from}")))?;
            let entries = self.ledger_file(&file).await?;
            let rest = entries.iter().skip(skip(from) % ARCHIVE_ENTRIES);
            rest.take(limit).map(record_of).collect()
        };
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body: LedgerPage {
                records,
                length: state.ledger_head().1,
            },
        })
    }

    /// The end of the ledger, signed by every replica that has the same.
    pub(crate) async fn read_ledger_head(
        &self,
        read: ReadOptions,
    ) -> Result<Answer<LedgerHead>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let (hash, length) = state.ledger_head();
        let cluster = cluster_of(&state)?;
        let consensus = &self.inner.consensus;
        let replicas = consensus.voters().into_iter().chain(consensus.learners());
        let asked = replicas.map(async |node| {
            let signature = self.ask_attestation(&node, length, hash).await;
            (node, signature)
        });
        let mut head = LedgerHead {
            cluster: cluster.to_string(),
            length,
            hash: BlobHash(hash).to_string(),
            attestations: Vec::new(),
            silent: Vec::new(),
        };
        for (node, answer) in join_all(asked).await {
            let name = node_ref(&state, &node).name;
            match answer {
                Ok(signature) => head.attestations.push(Attestation {
                    node: node.to_string(),
                    name,
                    signature: to_hex(&signature),
                }),
                Err(error) => head.silent.push(SilentReplica {
                    name,
                    why: error.message,
                }),
            }
        }
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body: head,
        })
    }

    async fn ask_attestation(
        &self,
        node: &NodeId,
        length: u64,
        hash: [u8; 32],
    ) -> Result<Vec<u8>, ServiceError> {
        if node == self.node_id() {
            return self.attest_ledger(length, hash).await;
        }
        let message = PeerMessage::AttestLedger { length, hash };
        match self.ask(node, &message, ATTEST_DEADLINE).await? {
            PeerReply::Attested(signature) => signature,
            other => Err(damaged(format!("it answered {other:?}"))),
        }
    }

    /// Signs the head if this replica has the same.
    pub(crate) async fn attest_ledger(
        &self,
        length: u64,
        hash: [u8; 32],
    ) -> Result<Vec<u8>, ServiceError> {
        let mut applied = self.inner.consensus.applied();
        let reached = applied.wait_for(|_| self.inner.consensus.state().ledger_head().1 >= length);
        let late = tokio::time::timeout(ATTEST_PATIENCE, reached)
            .await
            .is_err();
        let state = self.inner.consensus.state();
        let (head, known) = state.ledger_head();
        let conflict = |message: String| {
            Err(ServiceError::new(
                ErrorKind::Conflict,
                "other-ledger",
                message,
            ))
        };
        if late && known < length {
            return conflict(format!("it has only {known} records"));
        }
        let own = if known == length {
            Some(head)
        } else {
            let behind = usize::try_from(known - length).unwrap_or(usize::MAX);
            state.ledger().rev().nth(behind).map(|entry| entry.hash)
        };
        if own != Some(hash) {
            return conflict(format!(
                "its record {} is another one",
                length.saturating_sub(1)
            ));
        }
        let bytes = head_bytes(cluster_of(&state)?, length, &hash);
        Ok(self.inner.network.sign(&bytes))
    }

    /// The entries of a sealed file, which must be the one that the state names.
    async fn ledger_file(&self, file: &ArchiveRef) -> Result<Vec<LedgerEntry>, ServiceError> {
        let bytes = self.inner.consensus.archive(&file.name).await;
        let bytes = bytes.map_err(|error| damaged(error.to_string()))?;
        let bytes = bytes.ok_or_else(|| damaged(format!("{} is missing", file.name)))?;
        if BlobHash::of(&bytes) != file.hash {
            return Err(damaged(format!("{} does not have its hash", file.name)));
        }
        match decode_archive(&bytes) {
            Ok(ArchiveContent::Ledger { entries, .. }) => Ok(entries),
            Ok(ArchiveContent::Experiments { .. }) => {
                Err(damaged(format!("{} holds no ledger", file.name)))
            }
            Err(error) => Err(damaged(format!("{}: {error}", file.name))),
        }
    }
}

/// Adds what the filter lets through of entries that come newest first.
fn take_matching<'a>(
    state: &ClusterState,
    filter: &LedgerFilter,
    experiment: Option<ExperimentId>,
    entries: impl Iterator<Item = &'a LedgerEntry>,
    limit: usize,
    body: &mut Vec<LedgerEntryView>,
) {
    let matching = entries
        .take_while(|entry| filter.since.is_none_or(|since| entry.at.0 >= since))
        .filter(|entry| experiment.is_none() || entry.experiment == experiment)
        .map(|entry| ledger_view(state, entry))
        .filter(|view| {
            filter
                .action
                .as_ref()
                .is_none_or(|action| view.action == *action)
        })
        .filter(|view| filter.by.as_ref().is_none_or(|by| is_by(&view.author, by)))
        .take(limit - body.len());
    body.extend(matching);
}

/// Whether `author` (user@node) is meant by a user, a node or both.
fn is_by(author: &str, by: &str) -> bool {
    let (user, node) = author.split_once('@').unwrap_or((author, author));
    author == by || user == by || node == by
}

fn cluster_of(state: &ClusterState) -> Result<ClusterId, ServiceError> {
    state
        .cluster()
        .ok_or_else(|| damaged("there is no cluster yet".to_owned()))
}

fn damaged(message: String) -> ServiceError {
    ServiceError::new(ErrorKind::Internal, "ledger", message)
        .hint("read it at another node, and look at this node's log")
}
