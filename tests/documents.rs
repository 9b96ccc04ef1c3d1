//! What the documents promise exists: every test that they name is a test of this repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents that name tests, each as `` `a_name_with_underscores` ``.
const NAMING_TESTS: [&str; 2] = ["docs/faults.md", "docs/track-record.md"];
/// Rows of the table of faults.
const FAULTS: usize = 66;
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

/// The word after `fn`, if this line begins a function.
fn function_in(line: &str) -> Option<String> {
    let (before, rest) = line.split_once("fn ")?;
    let only_words = before.chars().all(|c| c.is_ascii_lowercase() || c == ' ');
    let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    only_words.then(|| rest.chars().take_while(is_word).collect())
}

/// Names of the tests of a source: functions with the attribute, those of `proptest!` included.
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        if let Some(name) = function_in(line) {
            names.extend(is_test.then_some(name));
            is_test = false;
        }
    }
    names
}

/// Names of all tests, and of the fuzz targets.
fn tests(root: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        names.extend(tests_in(&text));
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
fn a_function_that_is_no_test_does_not_count() {
    let text = "
        #[test]
        /// Says what.
        #[ignore = \"long\"]
        fn one() {}
        fn helper() {}
        #[tokio::test(flavor = \"multi_thread\")]
        async fn two() { let x = 1; }
        // #[test]
        pub(crate) fn three() {}
    ";
    assert_eq!(tests_in(text), ["one", "two"]);
}

/// Where cargo runs this, not where it was built: clones may share what is built.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = root();
    let tests = tests(&root);
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
                tests.contains(name),
                "{document} names `{name}`, which is no test"
            );
        }
    }
}

#[test]
fn the_table_of_faults_has_all_its_rows_in_order() {
    let path = root().join("docs/faults.md");
    let text = fs::read_to_string(path).expect("the document");
    let first_cells = text.lines().filter_map(|line| line.strip_prefix("| "));
    let numbers = first_cells.filter_map(|cells| cells.split_once(" |")?.0.parse().ok()); // the head is no number
    assert_eq!(
        numbers.collect::<Vec<usize>>(),
        (1..=FAULTS).collect::<Vec<_>>()
    );
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells = line.matches('|').count();
        assert_eq!(cells, 5, "four cells: {line}");
        assert!(!line.ends_with("|  |"), "shown by nothing: {line}");
    }
}
