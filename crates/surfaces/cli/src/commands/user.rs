//! `muster user`.

use clap::ValueEnum;
use rest::wire::{CreateUserTokenRequest, TokenCreated};

use crate::client::{Request, parse};
use crate::error::Error;
use crate::output::amounts::plain;

use super::Session;
use super::token::life;

/// What to do with people.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token that lets a person use the cluster over TCP; it is printed once
    Token {
        /// The person
        user: String,
        /// What they may do
        #[arg(long, value_enum, default_value_t = Role::Member)]
        role: Role,
    },
}

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Look
    Viewer,
    /// Look, submit, and stop own experiments
    Member,
    /// Everything
    Admin,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

pub(super) async fn run(command: &Command, session: &Session) -> Result<(), Error> {
    let Command::Token { user, role } = command;
    let body = CreateUserTokenRequest {
        user: user.clone(),
        role: role.word().to_owned(),
        expires_in_ms: None,
        never_expires: false,
    };
    let bytes = session
        .change(|| Request::json("/user-tokens", &body))
        .await?;
    session.print(&bytes, "a token", |token: &TokenCreated, _look| {
        plain(&token.token)
    })?;
    if !session.terminal.json {
        let token: TokenCreated = parse(&bytes, "a token")?;
        session.terminal.note(&format!(
            "{} puts it in MUSTER_TOKEN and the node's URL in MUSTER_NODE; {}; id {}",
            plain(user),
            life(&token),
            plain(&token.id)
        ));
    }
    Ok(())
}
