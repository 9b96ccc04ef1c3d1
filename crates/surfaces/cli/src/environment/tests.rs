use super::*;

fn write(root: &std::path::Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn options(root: &std::path::Path, working_directory: &str) -> EnvironmentOptions {
    EnvironmentOptions {
        mode: Mode::Auto,
        file: None,
        root: Some(root.canonicalize().unwrap()),
        working_directory: working_directory.to_owned(),
    }
}

const UV_LOCK: &str = "version = 1\nrequires-python = \">=3.10\"\n\n[[package]]\nname = \"a\"\n\n[[package]]\nname = \"b\"\n";

#[test]
fn the_nearest_file_above_the_command_counts_and_locks_come_first() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    let summary = |directory: &str| find(&options(root, directory)).unwrap().summary;
    assert_eq!(
        summary("a/b"),
        "the machine's own: the code has no lock or requirements file"
    );
    write(root, "requirements.txt", "numpy\ntorch==2.0\n");
    assert_eq!(summary("a/b"), "requirements.txt, 2 requirements");
    write(root, "a/requirements-gpu.txt", "x==1 --hash=sha256:00\n");
    assert_eq!(
        summary("a/b"),
        "a/requirements-gpu.txt, 1 requirements, with hashes"
    );
    write(root, "a/uv.lock", UV_LOCK);
    assert_eq!(
        summary("a/b"),
        "a/requirements-gpu.txt, 1 requirements, with hashes",
        "uv.lock without its project is none"
    );
    write(
        root,
        "a/pyproject.toml",
        "[project]\nname = \"own\"\n[build-system]\n",
    );
    assert_eq!(
        summary("a/b"),
        "a/uv.lock, 2 packages, with hashes, Python >=3.10"
    );
    let spec = find(&options(root, "a")).unwrap().spec.unwrap();
    assert_eq!(spec.import_paths, ["a"]);
    std::fs::create_dir(root.join("a/src")).unwrap();
    let spec = find(&options(root, "a")).unwrap().spec.unwrap();
    assert_eq!(spec.import_paths, ["a/src"]);
    write(root, "a/.python-version", "3.12\n");
    assert_eq!(
        summary("a"),
        "a/uv.lock, 2 packages, with hashes, Python 3.12"
    );
    assert_eq!(summary(""), "requirements.txt, 2 requirements");
}

#[test]
fn what_is_there_and_not_used_is_said() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "environment.yml", "dependencies: [python]\n");
    let found = find(&options(root, "")).unwrap();
    assert!(found.spec.is_none());
    assert!(found.warnings[0].contains("conda"), "{found:?}");
    let lock = |file: Option<&str>| {
        let mode = Mode::Lock;
        let file = file.map(|file| root.join(file));
        find(&EnvironmentOptions {
            mode,
            file,
            ..options(root, "")
        })
    };
    assert!(lock(None).unwrap_err().to_string().contains("conda"));
    write(root, "requirements-a.txt", "a\n");
    write(root, "requirements-b.txt", "b\n");
    let found = find(&options(root, "")).unwrap();
    assert!(
        found.warnings[0].contains("--env-file requirements-a.txt"),
        "{found:?}"
    );
    let several = lock(None).unwrap_err();
    assert!(several.hint().contains("--env-file"), "{several:?}");
    let chosen = lock(Some("requirements-b.txt")).unwrap();
    assert_eq!(chosen.summary, "requirements-b.txt, 1 requirements");
    let outside = EnvironmentOptions {
        file: Some("/etc/hostname".into()),
        ..options(root, "")
    };
    assert!(
        find(&outside)
            .unwrap_err()
            .to_string()
            .contains("not in the code")
    );
}

#[test]
fn a_project_that_only_sets_tools_asks_for_no_packages() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "pyproject.toml", "[tool.ruff]\nline-length = 100\n");
    assert!(find(&options(root, "")).unwrap().spec.is_none());
    write(
        root,
        "pyproject.toml",
        "[project]\nname = \"x\"\nrequires-python = \">=3.9\"\ndependencies = [\"a\"]\n",
    );
    let found = find(&options(root, "")).unwrap();
    assert_eq!(found.summary, "pyproject.toml, not locked, Python >=3.9");
    let captured = found.captured().unwrap().unwrap();
    let Content::Memory(bytes) = &captured.blob.content else {
        panic!("{captured:?}");
    };
    let spec: EnvironmentSpec = codec::decode(bytes, codec::MAX_MESSAGE_BYTES).unwrap();
    assert_eq!(Some(spec), found.spec.map(EnvironmentSpec::V1));
}

#[test]
fn nothing_is_looked_for_where_nobody_asks() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "requirements.txt", "numpy\n");
    let none = EnvironmentOptions {
        mode: Mode::None,
        ..options(root.path(), "")
    };
    assert!(find(&none).unwrap().captured().unwrap().is_none());
    let no_code = EnvironmentOptions {
        root: None,
        ..options(root.path(), "")
    };
    assert!(find(&no_code).unwrap().spec.is_none());
    let lock = EnvironmentOptions {
        mode: Mode::Lock,
        ..no_code
    };
    assert!(find(&lock).unwrap_err().hint().contains("--no-source"));
}
