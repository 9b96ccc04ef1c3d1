//! What a node says on its screen when it is up.

use std::io::Write as _;

use anyhow::anyhow;
use service::{CallerProof, Handle};
use types::Role;

use crate::config::Config;

/// Uses and life of the join token that the first node prints.
const FIRST_TOKEN_USES: u32 = 10;

/// Says on standard output what a person needs now.
pub(crate) async fn announce(
    handle: &Handle,
    config: &Config,
    bound: &rest::Bound,
    founded: bool,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let url = bound.url().unwrap_or_default();
    if founded {
        let admin = service::Caller {
            user: "muster".to_owned(),
            role: Role::Admin,
            proof: CallerProof::Socket,
        };
        let request = service::view::CreateJoinTokenRequest {
            uses: Some(FIRST_TOKEN_USES),
            expires_in_ms: None,
        };
        let token = handle
            .create_join_token(&admin, request)
            .await
            .map_err(|error| anyhow!("{error}"))?;
        writeln!(
            out,
            "created a new cluster; this is its first machine ({})",
            config.name
        )?;
        writeln!(
            out,
            "add machines (within an hour):  muster up --join {}",
            token.token
        )?;
    } else {
        writeln!(out, "node {} is up", config.name)?;
    }
    writeln!(
        out,
        "API {url}   command line: muster --node {} nodes",
        config.socket.display()
    )?;
    if let Some(fingerprint) = bound.fingerprint() {
        writeln!(
            out,
            "its certificate: {fingerprint}   (muster --node URL --pin …)"
        )?;
    }
    out.flush()?;
    Ok(())
}
