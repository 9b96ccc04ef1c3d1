//! The Unix socket: taken over only from the dead, and never visible with wider rights than meant.

use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::net::{UnixListener, UnixStream};

use crate::Error;

/// `sun_path` has 108 bytes with its end; `.new` is appended while the socket is made.
const MAX_PATH_BYTES: usize = 103;

/// A listening socket and the file that names it.
#[derive(Debug)]
pub(crate) struct SocketListener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl SocketListener {
    /// Listens on `path`, mode 0666 for root (the kernel tells who connects), else 0600.
    pub(crate) async fn bind(path: &Path) -> Result<Self, Error> {
        if path.as_os_str().as_bytes().len() > MAX_PATH_BYTES {
            let path = path.to_owned();
            return Err(Error::SocketPathTooLong {
                path,
                limit: MAX_PATH_BYTES,
            });
        }
        let for_everybody = rustix::process::geteuid().is_root();
        create_directory(path, if for_everybody { 0o755 } else { 0o700 }).await?;
        refuse_living(path).await?;
        let (listener, inode) = publish(path, if for_everybody { 0o666 } else { 0o600 }).await?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Removes the file, unless another node has put its own there.
    pub(crate) async fn remove(self) {
        let still_ours = fs::symlink_metadata(&self.path).await;
        if !still_ours.is_ok_and(|metadata| metadata.ino() == self.inode) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path).await {
            tracing::warn!(%error, path = ?self.path, "socket file not removed");
        }
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Socket { step, path, source }
}

/// Makes the directory of `path` with `mode`; one that exists keeps its own.
async fn create_directory(path: &Path, mode: u32) -> Result<(), Error> {
    let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(mode);
    builder
        .create(directory)
        .await
        .map_err(failed("create the directory", directory))?;
    fs::set_permissions(directory, Permissions::from_mode(mode))
        .await
        .map_err(failed("set the rights of", directory))
}

/// Fails if somebody answers on `path` or something else than a socket is there.
async fn refuse_living(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let path = path.to_owned();
            return Err(Error::NotASocket { path });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(stream) => {
            // On this side the credentials are those of the process that called listen.
            let process_id = stream
                .peer_cred()
                .ok()
                .and_then(|credentials| credentials.pid());
            let process = process_id.map_or_else(|| "?".to_owned(), |id| id.to_string());
            let path = path.to_owned();
            Err(Error::SocketInUse { path, process })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()), // its owner is gone
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("connect to", path)(error)),
    }
}

/// Binds beside `path`, sets `mode`, then renames: nobody ever sees the socket with other rights.
async fn publish(path: &Path, mode: u32) -> Result<(UnixListener, u64), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    match fs::remove_file(&fresh).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &fresh)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(failed("listen on", &fresh))?;
    fs::set_permissions(&fresh, Permissions::from_mode(mode))
        .await
        .map_err(failed("set the rights of", &fresh))?;
    fs::rename(&fresh, path)
        .await
        .map_err(failed("put in place", path))?;
    let metadata = fs::symlink_metadata(path)
        .await
        .map_err(failed("look at", path))?;
    Ok((listener, metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_taken_over_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper").join("api.sock");
        let first = SocketListener::bind(&path).await.unwrap();
        let error = SocketListener::bind(&path).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first); // as after a kill: the file stays, nobody answers
        assert!(path.exists());
        let second = SocketListener::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let root = rustix::process::geteuid().is_root();
        assert_eq!(mode, if root { 0o666 } else { 0o600 });
        let parent = std::fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(parent, if root { 0o755 } else { 0o700 });
        second.remove().await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let first = SocketListener::bind(&path).await.unwrap();
        std::fs::rename(&path, directory.path().join("away")).unwrap();
        let _second = SocketListener::bind(&path).await.unwrap();
        first.remove().await;
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = SocketListener::bind(&path).await.unwrap_err();
        assert!(matches!(error, Error::NotASocket { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_path_beyond_the_kernels_limit_is_refused_with_the_limit() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(100)));
        let error = SocketListener::bind(&path).await.unwrap_err();
        assert!(error.to_string().contains("103 bytes"), "{error}");
    }
}
