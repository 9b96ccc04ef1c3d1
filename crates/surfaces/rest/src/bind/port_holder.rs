//! Who listens on a port, as Linux tells it: the socket's inode in `/proc/net/tcp`, then the process that has it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// Longest command line that is shown.
const MAX_COMMAND_CHARACTERS: usize = 120;

/// Who holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortHolder {
    /// A process that we may look at.
    Process {
        /// Process id.
        process_id: u32,
        /// Its command line, shortened.
        command: String,
    },
    /// A process of another user, which we may not look at.
    User {
        /// The user's id.
        user_id: u32,
    },
    /// Not found: it went away meanwhile, or is outside our network namespace.
    Unknown,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process {
                process_id,
                command,
            } => write!(f, "process {process_id} ({command})"),
            Self::User { user_id } => write!(f, "a process of the user with id {user_id}"),
            Self::Unknown => f.write_str("a process that could not be found"),
        }
    }
}

/// Looks for the listener on `port`, IPv4 or IPv6.
pub(crate) async fn find(port: u16) -> PortHolder {
    let looking = tokio::task::spawn_blocking(move || look(port));
    match looking.await {
        Ok(Ok(holder)) => holder,
        Ok(Err(error)) => {
            tracing::debug!(%error, port, "holder of the port not found");
            PortHolder::Unknown
        }
        Err(error) => {
            tracing::debug!(%error, port, "search for the port's holder ended early");
            PortHolder::Unknown
        }
    }
}

fn look(port: u16) -> io::Result<PortHolder> {
    let mut table = fs::read_to_string("/proc/net/tcp")?;
    table.push_str(&fs::read_to_string("/proc/net/tcp6").unwrap_or_default()); // absent without IPv6
    let Some(listener) = table.lines().find_map(|line| listener_on(line, port)) else {
        return Ok(PortHolder::Unknown);
    };
    let process = process_with(&format!("socket:[{}]", listener.inode))?;
    Ok(process.unwrap_or(PortHolder::User {
        user_id: listener.user_id,
    }))
}

#[derive(Debug, PartialEq, Eq)]
struct Listener {
    user_id: u32,
    inode: u64,
}

/// A line is `sl local remote st queues timer retransmits uid timeout inode …`; state `0A` listens.
fn listener_on(line: &str, port: u16) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == "0A"; // none: the heading
    if !matches {
        return None;
    }
    Some(Listener {
        user_id: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn process_with(link: &str) -> io::Result<Option<PortHolder>> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(process_id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue; // not a process
        };
        if has_open(&entry.path(), link) {
            let command = command_of(&entry.path());
            return Ok(Some(PortHolder::Process {
                process_id,
                command,
            }));
        }
    }
    Ok(None)
}

/// Processes that ended meanwhile or belong to others have nothing open, as far as we see.
fn has_open(process: &Path, link: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| target.as_os_str() == link)
}

fn command_of(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default(); // empty: it ended meanwhile
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    let shown = text
        .trim()
        .chars()
        .filter(|character| !character.is_control());
    shown.take(MAX_COMMAND_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_on_the_port_are_taken() {
        let listening = "   0: 0100007F:1E25 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 73921 1 0000000000000000 100 0 0 10 0";
        let found = Listener {
            user_id: 1000,
            inode: 73_921,
        };
        assert_eq!(listener_on(listening, 7717), Some(found));
        assert_eq!(listener_on(listening, 7718), None);
        let connected = listening.replace(" 0A ", " 01 ");
        assert_eq!(listener_on(&connected, 7717), None);
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(listener_on(heading, 7717), None);
    }

    #[tokio::test]
    async fn a_listener_of_this_process_is_found_and_a_free_port_has_no_holder() {
        let listener = std::net::TcpListener::bind("[::1]:0")
            .or_else(|_no_ipv6| std::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let PortHolder::Process {
            process_id,
            command,
        } = find(port).await
        else {
            panic!("the holder was not found");
        };
        assert_eq!(process_id, std::process::id());
        assert!(!command.is_empty());
        drop(listener);
        assert_eq!(find(port).await, PortHolder::Unknown);
    }
}
