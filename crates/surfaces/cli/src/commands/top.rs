//! `muster top`.

use std::time::Duration;

use rest::wire::MachinesView;

use crate::client::{encode, parse};
use crate::error::Error;
use crate::output;
use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

/// Time between two looks: machines take a sample each second.
const LOOK: Duration = Duration::from_secs(2);
/// Home, and everything below it erased (ECMA-48).
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Options of `muster top`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these nodes: name, id, or the start of either
    #[arg(value_name = "NODE")]
    machines: Vec<String>,
    /// Print it once, as is done where the output is no terminal
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let names: Vec<_> = arguments.machines.iter().map(|name| encode(name)).collect();
    let path = match names.is_empty() {
        true => "/machines".to_owned(),
        false => format!("/machines?node={}", names.join(",")),
    };
    let live = !arguments.once && !session.terminal.json && session.terminal.out.is_terminal;
    if !live {
        return session
            .show(&path, "a list of machines", output::machines)
            .await;
    }
    loop {
        let get = async || session.client.get(&path).await;
        let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
        let view: MachinesView = parse(&bytes, "a list of machines")?;
        let text = output::machines(&view, &session.terminal.look());
        session.terminal.print(&format!("{CLEAR}{text}"))?;
        tokio::time::sleep(LOOK).await;
    }
}
