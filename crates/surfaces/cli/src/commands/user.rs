//! `muster user`.

use clap::ValueEnum;
use hyper::Method;
use rest::wire::{CallerView, CreateUserTokenRequest, TokenCreated, UserTokenView, WeightRequest};
use types::{DurationMs, parse_duration};

use crate::client::{Payload, Request, encode, parse};
use crate::error::Error;
use crate::output;
use crate::output::amounts::plain;

use super::Session;
use super::token::life;

/// Without a command: who you are, and whose tokens you may see.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do with people.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token that lets a person use the cluster over TCP; it is printed once
    #[command(visible_alias = "token")]
    Add {
        /// The person
        user: String,
        /// What they may do
        #[arg(long, value_enum, default_value_t = Role::Member)]
        role: Role,
        /// How long it works, such as 8h or 30d (default 90d)
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Option<DurationMs>,
        /// It works until it is revoked
        #[arg(long, conflicts_with = "expires")]
        never_expires: bool,
    },
    /// List the tokens of people: an administrator sees all, others their own
    #[command(visible_alias = "list")]
    Ls,
    /// Give a person another part among those of a queue (administrators; 1 is ordinary)
    Weigh {
        /// The person
        user: String,
        /// The part: one with 2 is served as if they used half
        weight: u32,
    },
    /// Make all tokens of a person useless from now on
    Remove {
        /// The person
        user: String,
    },
}

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
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

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    match &arguments.command {
        None => {
            let text = |caller: &CallerView, _look: &_| output::caller(caller);
            session.show("/me", "the caller", text).await?;
            if session.terminal.json {
                return Ok(());
            }
            list(session).await
        }
        Some(Command::Ls) => list(session).await,
        Some(Command::Add {
            user,
            role,
            expires,
            never_expires,
        }) => {
            let body = CreateUserTokenRequest {
                user: user.clone(),
                role: role.word().to_owned(),
                expires_in_ms: expires.map(|expires| expires.0),
                never_expires: *never_expires,
            };
            add(&body, session).await
        }
        Some(Command::Weigh { user, weight }) => {
            let path = format!("/users/{}/weight", encode(user));
            let body = WeightRequest { weight: *weight };
            session.change(|| Request::json(&path, &body)).await?;
            session
                .terminal
                .note(&format!("{} has part {weight}", plain(user)));
            Ok(())
        }
        Some(Command::Remove { user }) => {
            let path = format!("/users/{}", encode(user));
            let remove = || Request::new(Method::DELETE, path.clone(), Payload::empty());
            session.change(remove).await?;
            session
                .terminal
                .note(&format!("no token of {} works any more", plain(user)));
            Ok(())
        }
    }
}

async fn list(session: &Session) -> Result<(), Error> {
    let text = |tokens: &Vec<UserTokenView>, look: &_| output::user_tokens(tokens, look);
    session
        .show("/user-tokens", "a list of user tokens", text)
        .await
}

async fn add(body: &CreateUserTokenRequest, session: &Session) -> Result<(), Error> {
    let bytes = session
        .change(|| Request::json("/user-tokens", body))
        .await?;
    session.print(&bytes, "a token", |token: &TokenCreated, _look| {
        plain(&token.token)
    })?;
    if !session.terminal.json {
        let token: TokenCreated = parse(&bytes, "a token")?;
        session.terminal.note(&format!(
            "{} puts it in MUSTER_TOKEN (or @FILE of a file that only they may read) and the node's URL in MUSTER_NODE; {}; id {}",
            plain(&body.user),
            life(&token),
            plain(&token.id)
        ));
    }
    Ok(())
}
