//! What the process finds around it: who runs it, and the environment variables that matter.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where the sockets of a node lie that root started.
const ROOT_SOCKET_DIRECTORY: &str = "/run/muster";

/// Who runs the process and where things lie for them. The only reader of environment variables in this crate,
/// but for clap's own.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// User id of the process.
    pub uid: u32,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_directory: Option<PathBuf>,
    /// `XDG_CACHE_HOME`, else `$HOME/.cache`; none: nothing is cached.
    pub cache_directory: Option<PathBuf>,
    /// `MUSTER_TOKEN`, sent over TCP; `@FILE` reads it from a file.
    pub token: Option<String>,
    /// `NO_COLOR` is set and not empty (<https://no-color.org>).
    pub no_color: bool,
}

impl Surroundings {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        let directory = |name| {
            set(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Self {
            uid: rustix::process::getuid().as_raw(),
            runtime_directory: directory("XDG_RUNTIME_DIR"),
            cache_directory: directory("XDG_CACHE_HOME")
                .or_else(|| directory("HOME").map(|home| home.join(".cache"))),
            token: set("MUSTER_TOKEN").map(|token| token.to_string_lossy().trim().to_owned()),
            no_color: set("NO_COLOR").is_some(),
        }
    }

    /// The directory in which a node that this user starts puts its socket `<node name>.sock`:
    /// `/run/muster` for root, else `$XDG_RUNTIME_DIR/muster`, else `/tmp/muster-<uid>`.
    #[must_use]
    pub fn own_socket_directory(&self) -> PathBuf {
        if self.uid == 0 {
            return ROOT_SOCKET_DIRECTORY.into();
        }
        match &self.runtime_directory {
            Some(directory) => directory.join("muster"),
            None => format!("/tmp/muster-{}", self.uid).into(),
        }
    }

    /// Where to look for a node, the user's own first, then the machine's.
    #[must_use]
    pub fn socket_directories(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.own_socket_directory(), ROOT_SOCKET_DIRECTORY.into()];
        directories.dedup();
        directories
    }
}

/// A variable's value, if it is set and not empty.
fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(uid: u32, runtime: Option<&str>) -> Surroundings {
        Surroundings {
            uid,
            runtime_directory: runtime.map(PathBuf::from),
            cache_directory: None,
            token: None,
            no_color: false,
        }
    }

    #[test]
    fn each_user_has_a_socket_directory_and_sees_that_of_root() {
        let directories = |uid, runtime| surroundings(uid, runtime).socket_directories();
        assert_eq!(
            directories(0, Some("/run/user/0")),
            [PathBuf::from("/run/muster")]
        );
        assert_eq!(
            directories(7, Some("/run/user/7")),
            ["/run/user/7/muster", "/run/muster"].map(PathBuf::from)
        );
        assert_eq!(
            directories(7, None),
            ["/tmp/muster-7", "/run/muster"].map(PathBuf::from)
        );
    }
}
