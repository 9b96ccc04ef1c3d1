//! A door for the fuzz targets: bytes as somebody could give them to the command line. Only `cargo fuzz` builds this.

use rest::audit::ChainCheck;

use crate::audit_file::AuditFile;

/// A file that is said to be an exported history.
pub fn audit_file(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("muster-fuzz-{}.audit", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary directory takes a file");
    let Ok(mut file) = AuditFile::open(&path) else {
        return;
    };
    let mut check = ChainCheck::default();
    loop {
        match file.next_record() {
            Ok(Some(record)) if check.take(&record).is_ok() => {}
            Ok(None) => break,
            Ok(Some(_)) | Err(_) => return,
        }
    }
    let head = file.head().expect("it was read whole");
    assert!(
        check.finish(&head).is_err(),
        "no key has signed what a fuzzer wrote"
    );
}
