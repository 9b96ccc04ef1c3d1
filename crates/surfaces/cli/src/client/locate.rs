//! Finding the node to talk to.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::secret_file::read_secret_file;
use crate::surroundings::Surroundings;

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Unix socket: the node knows who asks by the kernel.
    Socket(PathBuf),
    /// TCP: the node knows who asks by a token.
    Tcp {
        /// Host and port.
        authority: String,
        /// User token.
        token: Option<String>,
        /// The node has a certificate.
        is_tls: bool,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp {
                authority,
                is_tls: false,
                ..
            } => write!(f, "http://{authority}"),
            Self::Tcp { authority, .. } => write!(f, "https://{authority}"),
        }
    }
}

/// Finds the node that `node` means: a URL, the path of a socket or a name; without it the only one that lives.
///
/// # Errors
/// None or several live, or the text names none.
pub(crate) fn locate(node: Option<&str>, surroundings: &Surroundings) -> Result<Address, Error> {
    match node {
        Some(url) if url.contains("://") => tcp_address(url, surroundings),
        Some(path) if path.contains('/') => Ok(Address::Socket(path.into())),
        name => among(name, &surroundings.socket_directories(), surroundings.uid),
    }
}

/// Looks through directories of sockets; the first with a living node decides, unless a name is wanted.
fn among(name: Option<&str>, directories: &[PathBuf], uid: u32) -> Result<Address, Error> {
    let mut left_over = Vec::new();
    let mut present = Vec::new();
    for directory in directories {
        let mut living = Vec::new();
        for socket in sockets(directory, uid)? {
            if is_refused(&socket) {
                left_over.push(socket);
            } else {
                living.push(socket);
            }
        }
        let names: Vec<String> = living.iter().map(|socket| node_name(socket)).collect();
        if let Some(name) = name {
            if let Some(at) = names.iter().position(|living_name| living_name == name) {
                return Ok(Address::Socket(living.swap_remove(at)));
            }
            present.extend(names);
            continue;
        }
        match living.len() {
            0 => {}
            1 => return Ok(Address::Socket(living.remove(0))),
            _ => return Err(Error::SeveralNodes { names }),
        }
    }
    Err(match name {
        Some(name) => Error::NoSuchNode {
            name: name.to_owned(),
            present,
        },
        None => Error::NoNode {
            searched: directories.to_vec(),
            left_over,
        },
    })
}

/// The sockets of a directory in the order of their names; none if there is no such directory.
fn sockets(directory: &Path, uid: u32) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Source {
        step: "look for nodes in",
        path: directory.to_owned(),
        source,
    };
    let owner = match std::fs::metadata(directory) {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    if owner != uid && owner != 0 {
        return Err(Error::ForeignDirectory {
            path: directory.to_owned(),
            owner,
        });
    }
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sock")
        {
            sockets.push(path);
        }
    }
    sockets.sort();
    Ok(sockets)
}

/// Nobody listens: the node was killed before it could remove its socket.
fn is_refused(socket: &Path) -> bool {
    // Any other error (no permission, say) is for the real connection to report.
    UnixStream::connect(socket).is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        )
    })
}

fn node_name(socket: &Path) -> String {
    let stem = socket.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn tcp_address(url: &str, surroundings: &Surroundings) -> Result<Address, Error> {
    let wrong = |problem| Error::NodeAddress {
        text: url.to_owned(),
        problem,
    };
    let (rest, is_tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return Err(wrong("only http:// and https:// are spoken")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(wrong(
            "it must be http://host:port or https://host:port and no more",
        ));
    }
    let parsed: hyper::http::uri::Authority = authority
        .parse()
        .map_err(|_invalid| wrong("the host is missing or malformed"))?;
    if !is_tls && !is_this_machine(parsed.host()) {
        return Err(wrong(
            "over http:// anybody on the way reads the token: other machines are https://",
        ));
    }
    let port = match parsed.port() {
        Some(_) => String::new(),
        None if is_tls => ":443".to_owned(),
        None => ":80".to_owned(),
    };
    Ok(Address::Tcp {
        authority: format!("{authority}{port}"),
        token: read_token(surroundings.token.as_deref())?,
        is_tls,
    })
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok(); // a name
    ip.map_or(bare == "localhost", |ip| ip.is_loopback())
}

/// The token as given, or in a file (`@FILE`).
fn read_token(given: Option<&str>) -> Result<Option<String>, Error> {
    match given.and_then(|text| text.strip_prefix('@')) {
        Some(file) => read_secret_file(file.as_ref()).map(Some),
        None => Ok(given.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn listener(directory: &Path, name: &str) -> (UnixListener, PathBuf) {
        let path = directory.join(name);
        (UnixListener::bind(&path).unwrap(), path)
    }

    #[test]
    fn the_only_living_node_is_found_beside_left_over_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().join("absent"), directory.path().to_owned()];
        let (dead, dead_path) = listener(directory.path(), "dead.sock");
        drop(dead);
        std::fs::write(directory.path().join("notes.txt"), "x").unwrap();
        let error = among(None, &directories, own_uid()).unwrap_err();
        assert!(
            error.hint().contains(dead_path.to_str().unwrap()),
            "{}",
            error.hint()
        );
        assert!(error.hint().contains("muster up"));

        let (_alive, path) = listener(directory.path(), "n1.sock");
        assert_eq!(
            among(None, &directories, own_uid()).unwrap(),
            Address::Socket(path)
        );
    }

    #[test]
    fn several_nodes_are_listed_and_a_name_chooses() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().to_owned()];
        let (_one, _) = listener(directory.path(), "n1.sock");
        let (_two, second) = listener(directory.path(), "n2.sock");
        let error = among(None, &directories, own_uid()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 muster nodes run on this machine: n1, n2"
        );
        assert!(error.hint().contains("--node n1"));
        assert_eq!(
            among(Some("n2"), &directories, own_uid()).unwrap(),
            Address::Socket(second)
        );
        let error = among(Some("n9"), &directories, own_uid()).unwrap_err();
        assert_eq!(error.hint(), "these run: n1, n2");
    }

    #[test]
    fn the_directory_of_another_user_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        if own_uid() == 0 {
            std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
            let result = among(None, &[directory.path().to_owned()], 0);
            assert!(matches!(
                result,
                Err(Error::ForeignDirectory { owner: 12_345, .. })
            ));
        }
    }

    #[test]
    fn paths_and_urls_are_told_apart() {
        let surroundings = Surroundings {
            uid: 1,
            runtime_directory: None,
            cache_directory: None,
            token: Some("mt1.a.b".into()),
            no_color: false,
        };
        let locate = |text| locate(Some(text), &surroundings);
        assert_eq!(
            locate("./x.sock").unwrap(),
            Address::Socket("./x.sock".into())
        );
        let tcp = |authority: &str| Address::Tcp {
            authority: authority.into(),
            token: Some("mt1.a.b".into()),
            is_tls: false,
        };
        assert_eq!(
            locate("http://127.0.0.1:7717/").unwrap(),
            tcp("127.0.0.1:7717")
        );
        assert_eq!(locate("http://[::1]:7717").unwrap(), tcp("[::1]:7717"));
        assert_eq!(locate("http://localhost").unwrap(), tcp("localhost:80"));
        let https = locate("https://host").unwrap();
        assert_eq!(https.to_string(), "https://host:443");
        for bad in [
            "ftp://host:1",
            "http://host:7717",
            "http://192.0.2.1:7717",
            "https://",
            "http://",
            "http://a@b:1",
            "http://h:1/api",
        ] {
            assert!(
                matches!(locate(bad), Err(Error::NodeAddress { .. })),
                "{bad}"
            );
        }
    }
}
