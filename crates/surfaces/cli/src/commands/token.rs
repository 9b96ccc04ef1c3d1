//! `muster token`.

use hyper::Method;
use rest::wire::{CreateJoinTokenRequest, JoinTokenView, TokenCreated};
use types::{DurationMs, parse_duration};

use crate::client::{Payload, Request, encode, parse};
use crate::error::Error;
use crate::output;
use crate::output::amounts::{plain, span};
use crate::terminal::now_ms;

use super::Session;

/// The answer took a moment: an hour is said to be an hour.
const ROUNDING_MS: u64 = 1_000;

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token that lets machines join; it is printed once
    #[command(visible_alias = "create")]
    New {
        /// How many machines may join with it (default 1)
        #[arg(long)]
        uses: Option<u32>,
        /// How long it works, such as 30m or 2h (default 1h)
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Option<DurationMs>,
    },
    /// List the tokens that let machines join
    #[command(visible_alias = "list")]
    Ls,
    /// Make a token useless from now on, also one of a person
    Revoke {
        /// Its id, the part that is no secret
        id: String,
    },
}

pub(super) async fn run(command: &Command, session: &Session) -> Result<(), Error> {
    match command {
        Command::New { uses, expires } => {
            let body = CreateJoinTokenRequest {
                uses: *uses,
                expires_in_ms: expires.map(|expires| expires.0),
            };
            let bytes = session
                .change(|| Request::json("/join-tokens", &body))
                .await?;
            session.print(&bytes, "a token", |token: &TokenCreated, _look| {
                plain(&token.token)
            })?;
            if !session.terminal.json {
                let token: TokenCreated = parse(&bytes, "a token")?;
                session.terminal.note(&format!(
                    "a machine joins by `muster up --join` and this token; {}; id {}",
                    life(&token),
                    plain(&token.id)
                ));
            }
            Ok(())
        }
        Command::Ls => {
            let text = |tokens: &Vec<JoinTokenView>, look: &_| output::join_tokens(tokens, look);
            session
                .show("/join-tokens", "a list of join tokens", text)
                .await
        }
        Command::Revoke { id } => {
            let path = format!("/tokens/{}", encode(id));
            let revoke = || Request::new(Method::DELETE, path.clone(), Payload::empty());
            session.change(revoke).await?;
            session
                .terminal
                .note(&format!("token {} is revoked", plain(id)));
            Ok(())
        }
    }
}

/// How long a token lives.
pub(super) fn life(token: &TokenCreated) -> String {
    match token.expires_at {
        Some(at) => format!(
            "it works for {}",
            span((at + ROUNDING_MS).saturating_sub(now_ms()))
        ),
        None => "it does not expire".to_owned(),
    }
}
