//! Content-defined chunks of large blobs (`FastCDC`, Xia et al. 2020), for later de-duplicated transfer.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastcdc::v2020::StreamCDC;
use serde::{Deserialize, Serialize};
use types::{BlobHash, Chunk, codec};

use crate::draft::create_new;
use crate::store::{Store, blocking};
use crate::{Error, Handle};

/// Blobs up to this size are one chunk: below it an index saves less than it costs.
const CHUNKED_FROM_BYTES: u64 = 8 << 20;
/// Chunk sizes: 1 MiB on average keeps the index of a 64 GiB blob under 3 MiB.
const MINIMUM_CHUNK_BYTES: usize = 256 << 10;
const AVERAGE_CHUNK_BYTES: usize = 1 << 20;
const MAXIMUM_CHUNK_BYTES: usize = 4 << 20;

/// The cached index as stored.
#[derive(Serialize, Deserialize)]
enum StoredIndex {
    V1(Vec<Chunk>),
}

impl Handle {
    /// The chunks of a blob, in order and without gaps: one for blobs up to 8 MiB, content-defined above.
    /// Computed once and kept beside the blob.
    ///
    /// # Errors
    /// The blob is not here, cannot be read, or was damaged (then it is moved aside).
    pub async fn chunk_index(&self, hash: &BlobHash) -> Result<Vec<Chunk>, Error> {
        let (store, hash) = (Arc::clone(&self.store), *hash);
        blocking(move || store.chunk_index(hash)).await
    }
}

impl Store {
    fn chunk_index(&self, hash: BlobHash) -> Result<Vec<Chunk>, Error> {
        let Some((file, length)) = self.open_blob(&hash)? else {
            return Err(Error::Missing { hash });
        };
        if length <= CHUNKED_FROM_BYTES {
            return Ok(vec![Chunk {
                offset: 0,
                length: u32::try_from(length).expect("8 MiB fit in 32 bits"),
                hash,
            }]);
        }
        let cache = chunks_path(self.path(&hash));
        if let Some(chunks) = read_cache(&cache, length)? {
            return Ok(chunks);
        }
        let chunks = self.compute_chunks(hash, file)?;
        self.write_cache(&cache, &chunks)?;
        Ok(chunks)
    }

    fn compute_chunks(&self, hash: BlobHash, file: File) -> Result<Vec<Chunk>, Error> {
        let mut whole = blake3::Hasher::new();
        let mut chunks = Vec::new();
        let parts = StreamCDC::new(
            file,
            MINIMUM_CHUNK_BYTES,
            AVERAGE_CHUNK_BYTES,
            MAXIMUM_CHUNK_BYTES,
        );
        for part in parts {
            let part = part.map_err(|e| Error::read(&self.path(&hash), e.into()))?;
            whole.update(&part.data);
            chunks.push(Chunk {
                offset: part.offset,
                length: u32::try_from(part.length).expect("a chunk has at most 4 MiB"),
                hash: BlobHash::of(&part.data),
            });
        }
        if whole.finalize().as_bytes() != &hash.0 {
            return Err(self.quarantine(hash)?);
        }
        Ok(chunks)
    }

    /// Writes the cache without syncing it: it can be computed again, and its checksum tells if it is torn.
    fn write_cache(&self, cache: &Path, chunks: &[Chunk]) -> Result<(), Error> {
        let bytes = codec::encode(&StoredIndex::V1(chunks.to_vec()));
        let draft = self.draft_path();
        let file = create_new(&draft)?;
        io::Write::write_all(&mut &file, &bytes).map_err(|e| Error::write(&draft, e))?;
        fs::rename(&draft, cache).map_err(|e| Error::rename(cache, e))
    }
}

/// The cached index; none if there is none or it is not that of a file of `length` bytes.
fn read_cache(cache: &Path, length: u64) -> Result<Option<Vec<Chunk>>, Error> {
    let bytes = match fs::read(cache) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::read(cache, e)),
    };
    match codec::decode::<StoredIndex>(&bytes, codec::MAX_MESSAGE_BYTES) {
        Ok(StoredIndex::V1(chunks)) if covers(&chunks, length) => Ok(Some(chunks)),
        Ok(StoredIndex::V1(_)) => Ok(None),
        Err(error) => {
            tracing::warn!(path = %cache.display(), %error, "chunk index was computed again");
            Ok(None)
        }
    }
}

fn covers(chunks: &[Chunk], length: u64) -> bool {
    let mut end = 0;
    for chunk in chunks {
        if chunk.offset != end {
            return false;
        }
        end += u64::from(chunk.length);
    }
    end == length
}

/// Where the chunk index of the blob at `path` is.
pub(crate) fn chunks_path(path: PathBuf) -> PathBuf {
    let mut name = path.into_os_string();
    name.push(".chunks");
    name.into()
}

/// Reads bytes as a stored index; one that covers a blob has its parts in order without holes.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(StoredIndex::V1(chunks)) = codec::decode(bytes, codec::MAX_MESSAGE_BYTES) {
        let length = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        if covers(&chunks, length) {
            assert!(
                chunks
                    .windows(2)
                    .all(|pair| pair[0].offset <= pair[1].offset)
            );
        }
    }
}
