//! The look at all archive files after a start: nobody reads most of them for months, and a disk forgets silently.

use std::collections::BTreeMap;
use std::sync::Weak;

use types::BlobHash;

use crate::handle::Inner;

/// Reads every archive that the state names, checks it, and lists its experiments for look-ups. What is
/// damaged stops the node, as any damaged record does.
pub(crate) async fn run(inner: Weak<Inner>) {
    let Some(replica) = inner.upgrade() else {
        return;
    };
    let stores = replica.receiver.stores.clone();
    drop(replica);
    let wanted: BTreeMap<String, BlobHash> = stores
        .published
        .state()
        .archives()
        .map(|(name, hash)| (name.to_owned(), hash))
        .collect();
    for (name, hash) in wanted {
        if inner
            .upgrade()
            .is_none_or(|replica| replica.stop.is_cancelled())
        {
            return;
        }
        match stores.archives.scrub(&name, hash).await {
            Ok(()) => {}
            Err(error) => {
                drop(stores.failure.report_error(error));
                return;
            }
        }
    }
    stores.archives.set_scrubbed();
}
