//! The file that says which packages the code needs: the nearest one at or above the directory of the command.

use std::path::Path;

use types::{EnvironmentKind, EnvironmentSpecV1, python_fits};

use super::requirements::{Files, read, without_credentials};
use super::{EnvironmentOptions, Found, Mode, locks, problem};
use crate::error::Error;

/// Locks in the order in which they are taken, then requirements.
const LOCKS: [(&str, EnvironmentKind); 3] = [
    ("uv.lock", EnvironmentKind::UvLock),
    ("poetry.lock", EnvironmentKind::PoetryLock),
    ("Pipfile.lock", EnvironmentKind::PipfileLock),
];
/// The requirements file that is taken before others.
const REQUIREMENTS: &str = "requirements.txt";
const PROJECT: &str = "pyproject.toml";
/// Files of conda.
const CONDA: [&str; 2] = ["environment.yml", "environment.yaml"];
/// What to do about packages of conda.
const CONDA_HINT: &str = "packages of conda are not rebuilt: activate it and take its Python packages with --env-mode live, or use what the machine has with --env-mode none";

/// A file that was found.
enum Candidate {
    /// Path from the root.
    File(String, EnvironmentKind),
    /// Several requirements files, of which none is the one.
    Several(Vec<String>),
    Conda(String),
}

/// Finds the file, reads it, and says what it is.
pub(super) fn detect(options: &EnvironmentOptions, root: &Path) -> Result<Found, Error> {
    let candidate = match &options.file {
        Some(file) => Some(named(options, root, file)?),
        None => nearest(root, &options.working_directory),
    };
    let is_asked = options.mode == Mode::Lock || options.file.is_some();
    match candidate {
        Some(Candidate::File(path, kind)) => describe(root, &path, kind),
        Some(Candidate::Several(paths)) => {
            let text = format!(
                "{} are there, and none is {REQUIREMENTS}",
                paths.join(" and ")
            );
            let hint = format!("say which with --env-file {}", paths[0]);
            if is_asked {
                return Err(problem(text, hint));
            }
            Ok(unused(format!("{text}: {hint}")))
        }
        Some(Candidate::Conda(path)) if is_asked => {
            Err(problem(format!("{path} is for conda"), CONDA_HINT))
        }
        Some(Candidate::Conda(path)) => Ok(unused(format!("{path}: {CONDA_HINT}"))),
        None if is_asked => Err(problem(
            "the code has no lock or requirements file",
            "uv.lock, poetry.lock, Pipfile.lock, requirements*.txt and pyproject.toml are looked for; --env-mode live takes the active Python's packages",
        )),
        None => Ok(Found::machine(
            "the machine's own: the code has no lock or requirements file",
        )),
    }
}

/// Something is there, and is not used, which the user should know.
fn unused(warning: String) -> Found {
    Found {
        warnings: vec![warning],
        ..Found::machine("the machine's own")
    }
}

fn nearest(root: &Path, working_directory: &str) -> Option<Candidate> {
    let mut directory = working_directory;
    loop {
        if let Some(found) = in_directory(root, directory) {
            return Some(found);
        }
        if directory.is_empty() {
            return None;
        }
        directory = directory.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

fn in_directory(root: &Path, directory: &str) -> Option<Candidate> {
    let there = |name: &str| root.join(directory).join(name).is_file();
    let path = |name: &str| below(directory, name);
    for (name, kind) in LOCKS {
        if there(name) && (kind != EnvironmentKind::UvLock || there(PROJECT)) {
            return Some(Candidate::File(path(name), kind));
        }
    }
    if there(REQUIREMENTS) {
        return Some(Candidate::File(
            path(REQUIREMENTS),
            EnvironmentKind::Requirements,
        ));
    }
    let mut others = requirements_files(&root.join(directory));
    match others.len() {
        0 => {}
        1 => {
            let name = others.remove(0);
            return Some(Candidate::File(path(&name), EnvironmentKind::Requirements));
        }
        _ => {
            let paths = others.iter().map(|name| path(name));
            return Some(Candidate::Several(paths.collect()));
        }
    }
    if there(PROJECT) && has_dependencies(&root.join(directory).join(PROJECT)) {
        return Some(Candidate::File(path(PROJECT), EnvironmentKind::Project));
    }
    let conda = CONDA.into_iter().find(|name| there(name));
    conda.map(|name| Candidate::Conda(path(name)))
}

fn requirements_files(directory: &Path) -> Vec<String> {
    // A directory that cannot be read was refused when its code was captured.
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok()); // not text: not captured
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with("requirements") && name.ends_with(".txt"))
        .collect();
    names.sort();
    names
}

/// A `pyproject.toml` that only sets tools needs no packages.
fn has_dependencies(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default(); // unreadable: refused with the code
    let mut section = "";
    text.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        section == "[project]" && line.starts_with("dependencies")
    })
}

/// The file that a person names, from where the command starts.
fn named(options: &EnvironmentOptions, root: &Path, file: &Path) -> Result<Candidate, Error> {
    let full = file.canonicalize().map_err(|source| Error::Source {
        step: "find",
        path: file.to_owned(),
        source,
    })?;
    let inside = full.strip_prefix(root).ok().and_then(Path::to_str); // outside or not text
    let Some(path) = inside else {
        return Err(problem(
            format!("{} is not in the code", file.display()),
            format!("the code is {} (--source chooses another)", root.display()),
        ));
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    if CONDA.contains(&name) {
        return Ok(Candidate::Conda(path.to_owned()));
    }
    let lock = LOCKS.iter().find(|(lock, _)| *lock == name);
    let kind = match lock {
        Some((_, kind)) => *kind,
        None if name == PROJECT => EnvironmentKind::Project,
        None => EnvironmentKind::Requirements,
    };
    debug_assert_ne!(options.mode, Mode::Live);
    Ok(Candidate::File(path.to_owned(), kind))
}

fn describe(root: &Path, path: &str, kind: EnvironmentKind) -> Result<Found, Error> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let project_path = below(directory, PROJECT);
    let project = match root.join(&project_path).is_file() {
        true => read(root, &project_path)?,
        false => String::new(),
    };
    let mut files = Files::default();
    let mut requirements = vec![path.to_owned()];
    let mut locked_python = key(&project, "requires-python");
    let what = match kind {
        EnvironmentKind::UvLock => {
            let lock = files.add(root, path)?;
            files.add(root, &project_path)?;
            locked_python = key(&lock, "requires-python").or(locked_python);
            let packages = lock.matches("[[package]]").count();
            format!("{packages} packages, with hashes")
        }
        EnvironmentKind::PoetryLock | EnvironmentKind::PipfileLock => {
            let text = without_credentials(&read(root, path)?);
            let locked = match kind {
                EnvironmentKind::PoetryLock => locks::poetry(&text)?,
                _ => locks::pipfile(&text)?,
            };
            locked_python = Some(locked.python).filter(|python| !python.is_empty());
            let made = below(directory, "locked-requirements.txt");
            files.add_made(&made, locked.lines.join("\n") + "\n");
            requirements = vec![made];
            let hashes = if locked.hashed { ", with hashes" } else { "" };
            format!("{} packages{hashes}", locked.lines.len())
        }
        EnvironmentKind::Project => {
            files.add(root, path)?;
            "not locked".to_owned()
        }
        EnvironmentKind::Requirements | EnvironmentKind::Live => {
            files.add_requirements(root, path)?;
            let hashes = if files.hashed { ", with hashes" } else { "" };
            format!("{} requirements{hashes}", files.count)
        }
    };
    let mut import_paths = Vec::new();
    if kind != EnvironmentKind::Requirements && is_package(&project) {
        import_paths.push(import_path(root, directory));
    }
    for local in std::mem::take(&mut files.local) {
        import_paths.push(import_path(root, &local));
        let own = below(&local, PROJECT);
        if root.join(&own).is_file() && has_dependencies(&root.join(&own)) {
            files.add(root, &own)?;
            requirements.push(own);
        }
    }
    let mut warnings = std::mem::take(&mut files.warnings);
    let python = wanted_python(root, directory, locked_python, &mut warnings);
    let version = match python.as_str() {
        "" => String::new(),
        python => format!(", Python {python}"),
    };
    Ok(Found {
        spec: Some(EnvironmentSpecV1 {
            kind,
            python,
            files: files.finish(),
            requirements,
            packages: Vec::new(),
            import_paths,
        }),
        summary: format!("{path}, {what}{version}"),
        warnings,
    })
}

/// `.python-version`, else what the lock or project says.
fn wanted_python(
    root: &Path,
    directory: &str,
    locked: Option<String>,
    warnings: &mut Vec<String>,
) -> String {
    let pinned = std::fs::read_to_string(root.join(below(directory, ".python-version")));
    let pinned = pinned
        .ok()
        .and_then(|text| Some(text.lines().next()?.trim().to_owned())); // mostly there is none
    let Some(wanted) = pinned.filter(|line| !line.is_empty()).or(locked) else {
        return String::new();
    };
    let wanted = match wanted.strip_prefix('^') {
        Some(version) => {
            let major: u32 = version
                .split('.')
                .next()
                .and_then(|part| part.parse().ok())
                .unwrap_or(3);
            format!(">={version},<{}", major + 1)
        }
        None => wanted,
    };
    if python_fits(&wanted, "3.11.0").is_none() {
        warnings.push(format!(
            "{wanted:?} is no version of Python that muster can read: the machine's own is used"
        ));
        return String::new();
    }
    wanted
}

/// It is meant to be imported by its name, as `uv sync` and `poetry install` make it.
fn is_package(project: &str) -> bool {
    let has = |line: &str| project.lines().any(|found| found.trim() == line);
    has("[build-system]") || has("package = true") || has("[tool.poetry]")
}

/// Where the code of a project in `directory` is imported from.
pub(super) fn import_path(root: &Path, directory: &str) -> String {
    let source = below(directory, "src");
    if root.join(&source).is_dir() {
        source
    } else {
        directory.to_owned()
    }
}

/// The value of the first line `key = "value"`.
fn key(text: &str, key: &str) -> Option<String> {
    let start = format!("{key} = \"");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&start))?;
    Some(line.split('"').next().unwrap_or_default().to_owned())
}

fn below(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}
