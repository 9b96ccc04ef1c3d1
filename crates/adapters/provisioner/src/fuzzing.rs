//! A door for the fuzz targets: lines as a provider or its asker could write them. Only `cargo fuzz` builds this.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder as _, LinesCodec};

use crate::protocol::{MAX_LINE_BYTES, Request, Response};

/// Questions and answers, a line each: what is understood says the same again.
pub fn lines(bytes: &[u8]) {
    let mut codec = LinesCodec::new_with_max_length(MAX_LINE_BYTES);
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(line)) = codec.decode(&mut buffer) {
        again::<Request>(&line);
        again::<Response>(&line);
    }
}

fn again<T: Serialize + DeserializeOwned + PartialEq>(line: &str) {
    if let Ok(value) = serde_json::from_str::<T>(line) {
        let text = serde_json::to_string(&value).expect("it has only text keys");
        assert!(!text.contains('\n'), "{text}");
        assert!(
            serde_json::from_str::<T>(&text).is_ok_and(|same| same == value),
            "{line}"
        );
    }
}
