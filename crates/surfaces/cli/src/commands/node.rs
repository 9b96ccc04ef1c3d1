//! `muster node`.

use std::time::Duration;

use hyper::Method;
use rest::wire::{
    DrainRequest, LabelRequest, NodeChangeView, NodeView, NodesView, PinRequest, RemoveNodeRequest,
    ReserveRequest,
};
use serde::Serialize;
use types::{DurationMs, parse_duration};

use crate::client::{Payload, Request, encode, parse};
use crate::error::Error;
use crate::output::amounts::plain;
use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

/// Time between two looks at a node that gets empty.
const LOOK: Duration = Duration::from_millis(500);

/// What to do with machines: each by its name, id, or a unique start of either.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Place nothing new on a node and give its vote back, before it is stopped or removed
    Drain {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
        /// Move what runs there, instead of letting it finish
        #[arg(long)]
        now: bool,
        /// Return when nothing runs there and it does not vote any more
        #[arg(long)]
        wait: bool,
        /// Why, for the others
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take a drained node into use again
    Undrain {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
    },
    /// Take a node out of the cluster, for good
    Remove {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
        /// Also while it runs something: that is placed again when its leases are over
        #[arg(long)]
        now: bool,
        /// The machine will never run again: what it ran is placed again at once
        #[arg(long, conflicts_with = "now")]
        is_dead: bool,
        /// Why, for the others and for the screen of that machine
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Make a node vote, before others
    Promote {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
    },
    /// Make a node not vote
    Demote {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
    },
    /// Give labels to a node, or take them off with NAME=; without any, show them
    Label {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
        /// Labels; NAME= takes one off, whatever the node's settings say
        #[arg(value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<(String, Option<String>)>,
    },
    /// Let a node take experiments of one person only, for a time
    Reserve {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
        /// Whose it is to be
        #[arg(long = "for", value_name = "USER")]
        user: String,
        /// For how long, such as 4h or 2d
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        time: DurationMs,
    },
    /// Let a node take experiments of everybody again
    Unreserve {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
    },
    /// Leave the vote of a node to the rule again
    Unpin {
        /// The node
        #[arg(value_name = "NODE")]
        machine: String,
    },
}

pub(super) async fn run(command: &Command, session: &Session) -> Result<(), Error> {
    match command {
        Command::Drain {
            machine,
            now,
            wait,
            reason,
        } => {
            let body = DrainRequest {
                now: *now,
                reason: reason.clone(),
            };
            let id = change(session, machine, "drain", &body).await?;
            if *wait {
                wait_until_empty(session, &id).await?;
            }
            Ok(())
        }
        Command::Undrain { machine } => post(session, machine, "undrain").await,
        Command::Remove {
            machine,
            now,
            is_dead,
            reason,
        } => {
            let body = RemoveNodeRequest {
                now: *now,
                is_dead: *is_dead,
                reason: reason.clone(),
            };
            change(session, machine, "remove", &body).await.map(drop)
        }
        Command::Label { machine, labels } if labels.is_empty() => {
            show_labels(session, machine).await
        }
        Command::Label { machine, labels } => {
            let body = LabelRequest {
                labels: labels.iter().cloned().collect(),
            };
            change(session, machine, "label", &body).await.map(drop)
        }
        Command::Reserve {
            machine,
            user,
            time,
        } => {
            let body = ReserveRequest {
                user: user.clone(),
                for_ms: time.0,
            };
            change(session, machine, "reserve", &body).await.map(drop)
        }
        Command::Unreserve { machine } => post(session, machine, "unreserve").await,
        Command::Promote { machine } => pin(session, machine, Some("voter")).await,
        Command::Demote { machine } => pin(session, machine, Some("worker")).await,
        Command::Unpin { machine } => pin(session, machine, None).await,
    }
}

/// Asks for a change that needs no more words.
async fn post(session: &Session, node: &str, verb: &str) -> Result<(), Error> {
    let path = format!("/nodes/{}/{verb}", encode(node));
    let request = || Request::new(Method::POST, path.clone(), Payload::empty());
    let bytes = session.change(request).await?;
    session.print(&bytes, "a node", text)
}

/// Prints the labels of a node, one a line.
async fn show_labels(session: &Session, machine: &str) -> Result<(), Error> {
    let get = async || session.client.get("/nodes").await;
    let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
    let view: NodesView = parse(&bytes, "a list of nodes")?;
    let is_it = |node: &&NodeView| node.name == machine || node.id == machine;
    let begins = |node: &&NodeView| node.name.starts_with(machine) || node.id.starts_with(machine);
    let only = || {
        let mut nodes = view.nodes.iter().filter(begins);
        nodes.next().filter(|_| nodes.next().is_none())
    };
    let Some(node) = view.nodes.iter().find(is_it).or_else(only) else {
        // The node knows more ways to name a machine, and says why none is meant.
        let nothing = LabelRequest {
            labels: std::collections::BTreeMap::new(),
        };
        return change(session, machine, "label", &nothing).await.map(drop);
    };
    let lines: Vec<_> = node.labels.iter().map(|label| plain(label)).collect();
    match lines.is_empty() {
        true => session.terminal.print("no labels"),
        false => session.terminal.print(&lines.join("\n")),
    }
}

/// Reads `NAME=VALUE`, or `NAME=`.
fn label(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let value = (!value.is_empty()).then(|| value.to_owned());
            Ok((name.to_owned(), value))
        }
        _ => Err("write NAME=VALUE, or NAME= to take the label off".to_owned()),
    }
}

async fn pin(session: &Session, node: &str, role: Option<&str>) -> Result<(), Error> {
    let body = PinRequest {
        role: role.map(str::to_owned),
    };
    change(session, node, "pin", &body).await.map(drop)
}

/// Asks for the change, prints what became of it, and gives the id of the node.
async fn change(
    session: &Session,
    node: &str,
    verb: &str,
    body: &impl Serialize,
) -> Result<String, Error> {
    let path = format!("/nodes/{}/{verb}", encode(node));
    let bytes = session.change(|| Request::json(&path, body)).await?;
    session.print(&bytes, "a node", text)?;
    let changed: NodeChangeView = parse(&bytes, "a node")?;
    Ok(changed.node.id)
}

fn text(change: &NodeChangeView, _look: &crate::output::Look) -> String {
    plain(&change.text)
}

/// Looks until nothing runs on the node and it has given its vote back.
async fn wait_until_empty(session: &Session, id: &str) -> Result<(), Error> {
    let mut said = String::new();
    loop {
        let get = async || session.client.get("/nodes").await;
        let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
        let view: NodesView = parse(&bytes, "a list of nodes")?;
        let Some(node) = view.nodes.iter().find(|node| node.id == id) else {
            return Ok(()); // Removed meanwhile: nothing runs there.
        };
        let waits = match (node.attempts.len(), node.role.as_str()) {
            (0, "worker") => {
                let name = plain(&node.name);
                session.terminal.note(&format!(
                    "{name} is empty: it may be stopped, or removed with `muster node remove {name}`"
                ));
                return Ok(());
            }
            (0, role) => format!("{} is still a {role}: {}", node.name, node.role_reason),
            (running, _) => format!(
                "{} still runs {running} attempts: {}",
                node.name,
                node.attempts.join(", ")
            ),
        };
        if waits != said {
            session.terminal.note(&plain(&waits));
            said = waits;
        }
        tokio::time::sleep(LOOK).await;
    }
}
