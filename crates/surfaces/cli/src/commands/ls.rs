//! `muster ls`.

use crate::client::encode;
use crate::error::Error;
use crate::output;

use super::Session;

/// Options of `muster ls`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Those that ended too
    #[arg(short, long)]
    all: bool,
    /// Only those in this state: queued, placed, running, stopping, finished, failed or stopped
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only those of this user
    #[arg(long)]
    user: Option<String>,
    /// Only those in this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only those of this name
    #[arg(long)]
    name: Option<String>,
    /// Only those of this group, those that ended too
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// List groups instead: what `muster run --sweep` made
    #[arg(long)]
    groups: bool,
    /// At most so many, newest first
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    if arguments.groups {
        return session
            .show("/groups", "a list of groups", output::groups)
            .await;
    }
    let path = path(arguments);
    session
        .show(&path, "a list of experiments", output::experiments)
        .await
}

fn path(arguments: &Arguments) -> String {
    let mut path = format!(
        "/experiments?all={}&limit={}",
        arguments.all, arguments.limit
    );
    let filters = [
        ("state", &arguments.state),
        ("user", &arguments.user),
        ("queue", &arguments.queue),
        ("name", &arguments.name),
        ("group", &arguments.group),
    ];
    for (filter, value) in filters {
        if let Some(value) = value {
            path.push_str(&format!("&{filter}={}", encode(value)));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_escaped() {
        let arguments = Arguments {
            all: true,
            state: None,
            user: Some("a&b=c d".into()),
            queue: None,
            name: Some("é".into()),
            group: None,
            groups: false,
            limit: 5,
        };
        assert_eq!(
            path(&arguments),
            "/experiments?all=true&limit=5&user=a%26b%3Dc%20d&name=%C3%A9"
        );
    }
}
