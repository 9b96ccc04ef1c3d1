//! What the documents promise exists: every test that they name is a test of this repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents that name tests, each as `` `a_name_with_underscores` ``.
const NAMING_TESTS: [&str; 2] = ["docs/faults.md", "docs/track-record.md"];
/// Directories without sources of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of all functions, and of the fuzz targets.
fn functions(root: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        for (at, _) in text.match_indices("fn ") {
            let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            names.insert(text[at + 3..].chars().take_while(is_word).collect());
        }
        if file
            .parent()
            .is_some_and(|parent| parent.ends_with("fuzz_targets"))
        {
            names.extend(
                file.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let functions = functions(root);
    for document in NAMING_TESTS {
        let text = fs::read_to_string(root.join(document)).expect("the document");
        let quoted = text.split('`').skip(1).step_by(2);
        let named: Vec<_> = quoted
            .filter(|name| {
                name.contains('_')
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            })
            .collect();
        assert!(named.len() > 10, "{document} names tests");
        for name in named {
            assert!(
                functions.contains(name),
                "{document} names `{name}`, which does not exist"
            );
        }
    }
}
