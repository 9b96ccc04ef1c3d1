//! The programs that turn a description into an environment, in order.

use std::path::{Path, PathBuf};

use types::{EnvironmentKind, EnvironmentSpecV1};

use super::python::Python;

/// Writes the dependencies of a `pyproject.toml` as requirements: pip reads no such file itself.
const PROJECT_DEPENDENCIES: &str = "import sys, tomllib; project = tomllib.load(open(sys.argv[1], 'rb')).get('project', {}); open(sys.argv[2], 'w').write('\\n'.join(project.get('dependencies', [])) + '\\n')";
/// Writes what is installed as lines of name and version.
const PACKAGES: &str = "import importlib.metadata as m, sys; open(sys.argv[1], 'w').write('\\n'.join(sorted({d.metadata['Name'] + ' ' + d.version for d in m.distributions() if d.metadata['Name']})))";
/// The file with the packages.
const PACKAGES_FILE: &str = "packages";

/// What builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Builder {
    Uv(PathBuf),
    Pip,
}

/// Where a build reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The environment.
    pub(super) environment: PathBuf,
    /// Scratch, gone afterwards.
    pub(super) scratch: PathBuf,
}

impl Places {
    pub(super) fn files(&self) -> PathBuf {
        self.scratch.join("files")
    }

    pub(super) fn packages_file(&self) -> PathBuf {
        self.scratch.join(PACKAGES_FILE)
    }

    fn interpreter(&self) -> String {
        text(&self.environment.join("bin/python"))
    }
}

/// The steps, each a program with its arguments.
///
/// # Errors
/// It cannot be built with this builder: why, and what to do.
pub(super) fn steps(
    spec: &EnvironmentSpecV1,
    builder: &Builder,
    python: &Python,
    places: &Places,
) -> Result<Vec<Vec<String>>, String> {
    let mut steps = match builder {
        Builder::Uv(uv) => with_uv(spec, &text(uv), python, places),
        Builder::Pip => with_pip(spec, python, places)?,
    };
    let list = [
        &places.interpreter(),
        "-I",
        "-c",
        PACKAGES,
        &text(&places.packages_file()),
    ];
    steps.push(list.map(str::to_owned).to_vec());
    Ok(steps)
}

fn with_uv(
    spec: &EnvironmentSpecV1,
    uv: &str,
    python: &Python,
    places: &Places,
) -> Vec<Vec<String>> {
    let environment = text(&places.environment);
    let mut steps = vec![words(&[
        uv,
        "venv",
        "--python",
        &python.executable,
        &environment,
    ])];
    let mut requirements = given(spec, places);
    let mut hashed = all_hashed(spec);
    if spec.kind == EnvironmentKind::UvLock {
        // Not `uv sync`: it would go to the addresses in the lock instead of this machine's own index.
        let exported = text(&places.scratch.join("exported.txt"));
        let project = project_directory(spec, places);
        steps.push(words(&[
            uv,
            "export",
            "--frozen",
            "--quiet",
            "--no-emit-workspace",
            "--python",
            &places.interpreter(),
            "--project",
            &project,
            "--output-file",
            &exported,
        ]));
        requirements = vec![exported];
        hashed = false; // uv writes and checks those that the lock has
    }
    let mut install = words(&[uv, "pip", "install", "--python", &environment]);
    install.push("--compile-bytecode".to_owned());
    if hashed {
        install.push("--require-hashes".to_owned());
    }
    for file in requirements {
        install.extend(["--requirements".to_owned(), file]);
    }
    steps.push(install);
    for package in &spec.packages {
        let path = text(&places.files().join(package));
        steps.push(words(&[
            uv,
            "pip",
            "install",
            "--python",
            &environment,
            "--no-deps",
            &path,
        ]));
    }
    steps
}

fn with_pip(
    spec: &EnvironmentSpecV1,
    python: &Python,
    places: &Places,
) -> Result<Vec<Vec<String>>, String> {
    if spec.kind == EnvironmentKind::UvLock {
        return Err("uv.lock needs uv, which is not on this machine: install it there, or submit with the output of `uv export --frozen > requirements.txt` and --env-file requirements.txt".to_owned());
    }
    let mut steps = vec![words(&[
        &python.executable,
        "-m",
        "venv",
        &text(&places.environment),
    ])];
    let interpreter = places.interpreter();
    let mut install = words(&[
        &interpreter,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]);
    if all_hashed(spec) {
        install.push("--require-hashes".to_owned());
    }
    for (number, file) in given(spec, places).into_iter().enumerate() {
        let mut file = file;
        if file.ends_with(".toml") {
            let listed = text(&places.scratch.join(format!("project-{number}.txt")));
            steps.push(words(&[
                &interpreter,
                "-I",
                "-c",
                PROJECT_DEPENDENCIES,
                &file,
                &listed,
            ]));
            file = listed;
        }
        install.extend(["--requirement".to_owned(), file]);
    }
    steps.push(install);
    for package in &spec.packages {
        let path = text(&places.files().join(package));
        steps.push(words(&[
            &interpreter,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            "--no-deps",
            &path,
        ]));
    }
    Ok(steps)
}

fn given(spec: &EnvironmentSpecV1, places: &Places) -> Vec<String> {
    let path = |path: &String| text(&places.files().join(path));
    spec.requirements.iter().map(path).collect()
}

fn project_directory(spec: &EnvironmentSpecV1, places: &Places) -> String {
    let lock = spec
        .files
        .iter()
        .find(|file| file.path.rsplit('/').next() == Some("uv.lock"));
    let directory = lock.and_then(|lock| Path::new(&lock.path).parent());
    text(&places.files().join(directory.unwrap_or(Path::new(""))))
}

/// Every requirement has its hash: then nothing without one may come in as a dependency.
fn all_hashed(spec: &EnvironmentSpecV1) -> bool {
    let listed = |path: &String| spec.files.iter().find(|file| file.path == *path);
    let files: Vec<_> = spec.requirements.iter().filter_map(listed).collect();
    let hashed = |content: &[u8]| {
        let text = String::from_utf8_lossy(content).replace("\\\r\n", " ");
        let text = text.replace("\\\n", " ");
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(['#', '-']))
            .peekable();
        lines.peek().is_some() && lines.all(|line| line.contains("--hash"))
    };
    !files.is_empty() && files.iter().all(|file| hashed(&file.content))
}

/// The packages as the last step wrote them.
pub(super) fn read_packages(written: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    written.lines().filter_map(pair).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned() // the data directory is text, which was checked at the start
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::EnvironmentFile;

    use super::*;

    fn spec(kind: EnvironmentKind, files: &[(&str, &'static str)]) -> EnvironmentSpecV1 {
        let file = |(path, content): &(&str, &'static str)| EnvironmentFile {
            path: (*path).to_owned(),
            content: Bytes::from_static(content.as_bytes()),
        };
        EnvironmentSpecV1 {
            kind,
            python: String::new(),
            files: files.iter().map(file).collect(),
            requirements: files.iter().map(|(path, _)| (*path).to_owned()).collect(),
            packages: Vec::new(),
            import_paths: Vec::new(),
        }
    }

    fn planned(spec: &EnvironmentSpecV1, builder: &Builder) -> Result<String, String> {
        let python = Python {
            executable: "/usr/bin/python3".to_owned(),
            version: "3.11.7".to_owned(),
            platform: "linux".to_owned(),
        };
        let places = Places {
            environment: "/e/env".into(),
            scratch: "/e/build".into(),
        };
        let steps = steps(spec, builder, &python, &places)?;
        Ok(steps.iter().map(|step| step.join(" ") + "\n").collect())
    }

    #[test]
    fn hashes_are_required_where_every_requirement_has_one() {
        let uv = Builder::Uv("/usr/bin/uv".into());
        for (lines, required) in [
            (
                "a==1 --hash=sha256:00\nb==2 \\\n    --hash=sha256:11\n",
                true,
            ),
            ("# a\n-i http://x/\na==1 --hash=sha256:00\n", true),
            ("a==1 --hash=sha256:00\nb==2\n", false),
            ("a\n", false),
            ("", false),
        ] {
            let spec = spec(
                EnvironmentKind::Requirements,
                &[("requirements.txt", lines)],
            );
            for builder in [&uv, &Builder::Pip] {
                let plan = planned(&spec, builder).unwrap();
                assert_eq!(
                    plan.contains("--require-hashes"),
                    required,
                    "{lines:?}\n{plan}"
                );
            }
        }
    }

    #[test]
    fn a_uv_lock_is_exported_and_installed_from_the_machines_index() {
        let lock = spec(
            EnvironmentKind::UvLock,
            &[("sub/pyproject.toml", ""), ("sub/uv.lock", "")],
        );
        let plan = planned(&lock, &Builder::Uv("/usr/bin/uv".into())).unwrap();
        assert!(plan.contains("uv export --frozen"), "{plan}");
        assert!(
            plan.contains("--project /e/build/files/sub --output-file /e/build/exported.txt"),
            "{plan}"
        );
        assert!(
            plan.contains("--requirements /e/build/exported.txt\n"),
            "{plan}"
        );
        let why = planned(&lock, &Builder::Pip).unwrap_err();
        assert!(why.contains("needs uv"), "{why}");
    }

    #[test]
    fn pip_gets_the_dependencies_of_a_project_as_requirements() {
        let project = spec(
            EnvironmentKind::Project,
            &[("pyproject.toml", "[project]\n")],
        );
        let plan = planned(&project, &Builder::Pip).unwrap();
        assert!(
            plan.contains("/e/build/files/pyproject.toml /e/build/project-0.txt"),
            "{plan}"
        );
        assert!(
            plan.contains("--requirement /e/build/project-0.txt"),
            "{plan}"
        );
    }
}
