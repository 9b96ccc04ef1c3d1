//! What people type and files say: ids, names, tokens, amounts, durations. What is understood says the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use types::{
    BlobHash, ExperimentId, GroupId, JoinTokenText, NodeId, QueueName, StopRule, fill_parameters, filled_length,
    parse_bytes, parse_cpus, parse_duration, parse_gpus, validate_tree_path,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    fn again<T: std::str::FromStr + std::fmt::Display + PartialEq>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            assert!(value.to_string().parse::<T>().is_ok_and(|same| same == value), "{text:?}");
        }
    }
    again::<NodeId>(text);
    again::<ExperimentId>(text);
    again::<BlobHash>(text);
    again::<QueueName>(text);
    again::<JoinTokenText>(text);
    again::<GroupId>(text);
    again::<StopRule>(text);
    service::fuzzing::sweep(text);
    let parameters = [("a".to_owned(), "{a}b".to_owned())];
    assert!(fill_parameters(text, &parameters).len() as u64 <= filled_length(text, &parameters));
    drop((parse_bytes(text), parse_cpus(text), parse_gpus(text), parse_duration(text)));
    if validate_tree_path(text).is_ok() {
        let path = std::path::Path::new(text);
        assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{text:?} leaves its tree");
    }
});
