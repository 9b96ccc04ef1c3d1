//! What the active Python has: packages with exact versions, and the source of those that are installed in place.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use types::{EnvironmentKind, EnvironmentSpecV1, SourceTree, TreeEntryKind, codec};

use super::detect::import_path;
use super::requirements::{Files, without_credentials};
use super::{Found, problem};
use crate::capture::{Blob, Capture, CaptureOptions, Content, capture as capture_code};
use crate::error::Error;
use crate::terminal::Terminal;

/// Asks Python what is installed: the first of each name on its path, which is the one that is imported.
const QUESTION: &str = r"
import importlib.metadata, json, os, re, site, sys, sysconfig
seen, found = set(), []
homes = {os.path.realpath(p) for p in site.getsitepackages() + [site.getusersitepackages(), sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]}
for d in importlib.metadata.distributions():
    name = d.metadata['Name']
    key = re.sub(r'[-_.]+', '-', name or '').lower()
    if not key or key in seen:
        continue
    seen.add(key)
    place = os.path.realpath(str(d.locate_file('')))
    direct = d.read_text('direct_url.json')
    found.append({'name': key, 'version': d.version, 'direct': json.loads(direct) if direct else None, 'place': None if place in homes or 'dist-packages' in place else place})
print(json.dumps({'python': '%d.%d' % sys.version_info[:2], 'executable': sys.executable, 'conda': os.path.isdir(os.path.join(sys.prefix, 'conda-meta')), 'packages': found}))
";
/// Tools that an environment has anyway.
const TOOLS: [&str; 3] = ["pip", "uv", "wheel"];
/// Largest file, and most in all, of a local package.
const MAX_PACKAGE_BYTES: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
struct Live {
    python: String,
    executable: String,
    conda: bool,
    packages: Vec<Installed>,
}

#[derive(Debug, Deserialize)]
struct Installed {
    name: String,
    version: String,
    direct: Option<Direct>,
    /// Where it is, if not where packages are.
    place: Option<String>,
}

/// `direct_url.json` (PEP 610).
#[derive(Debug, Deserialize)]
struct Direct {
    url: String,
    #[serde(default)]
    dir_info: Option<DirInfo>,
    #[serde(default)]
    vcs_info: Option<VcsInfo>,
    #[serde(default)]
    subdirectory: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DirInfo {}

#[derive(Debug, Deserialize)]
struct VcsInfo {
    vcs: String,
    commit_id: String,
}

/// What is to be done to have a package elsewhere.
enum Way {
    Requirement(String),
    /// A directory on this machine.
    Local(String),
}

/// Asks the Python that this shell would run.
pub(super) fn capture(root: Option<&Path>) -> Result<Found, Error> {
    let live = ask()?;
    let mut lines = Vec::new();
    let mut spec = EnvironmentSpecV1 {
        kind: EnvironmentKind::Live,
        python: live.python.clone(),
        files: Vec::new(),
        requirements: vec!["requirements.txt".to_owned()],
        packages: Vec::new(),
        import_paths: Vec::new(),
    };
    let mut files = Files::default();
    let mut local = 0;
    for package in &live.packages {
        if TOOLS.contains(&package.name.as_str()) {
            continue;
        }
        match way(package)? {
            Way::Requirement(line) => lines.push(line),
            Way::Local(directory) => {
                local += 1;
                let inside = root
                    .and_then(|root| Some((root, Path::new(&directory).strip_prefix(root).ok()?))); // outside: packed
                match inside.map(|(root, path)| (root, path.to_str())) {
                    Some((root, Some(path))) => spec.import_paths.push(import_path(root, path)),
                    Some((_, None)) | None => {
                        let at = format!("packages/{}", package.name);
                        pack(&directory, &at, &mut spec)?;
                        spec.packages.push(at);
                    }
                }
            }
        }
    }
    lines.sort();
    let count = lines.len();
    files.add_made("requirements.txt", lines.join("\n") + "\n");
    spec.files.extend(files.finish());
    spec.files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut summary = format!("live Python {}, {count} packages", live.python);
    if local > 0 {
        summary.push_str(&format!(" and the source of {local} local"));
    }
    let warnings = match live.conda {
        true => vec![format!(
            "{} is of conda: its Python packages are taken, what else conda installed is not",
            live.executable
        )],
        false => Vec::new(),
    };
    Ok(Found {
        spec: Some(spec),
        summary,
        warnings,
    })
}

fn ask() -> Result<Live, Error> {
    let mut last = String::new();
    for program in ["python3", "python"] {
        let run = Command::new(program)
            .args(["-c", QUESTION])
            .stdin(Stdio::null())
            .output();
        let output = match run {
            Ok(output) => output,
            Err(error) => {
                last = format!("{program}: {error}");
                continue;
            }
        };
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).map_err(|error| {
                problem(
                    format!("{program} does not say what it has: {error}"),
                    "--env-mode none uses what the machine has",
                )
            });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        last = format!("{program}: {}", said.lines().last().unwrap_or_default());
    }
    Err(problem(
        format!("no Python is active here ({last})"),
        "activate the environment, or leave out --env-mode live",
    ))
}

fn way(package: &Installed) -> Result<Way, Error> {
    let Installed { name, version, .. } = package;
    let Some(direct) = &package.direct else {
        return Ok(match &package.place {
            Some(place) => Way::Local(place.clone()),
            None => Way::Requirement(format!("{name}=={version}")),
        });
    };
    let url = without_credentials(&direct.url);
    if let Some(vcs) = &direct.vcs_info {
        let below = direct.subdirectory.as_ref();
        let below = below.map_or(String::new(), |path| format!("#subdirectory={path}"));
        return Ok(Way::Requirement(format!(
            "{name} @ {}+{url}@{}{below}",
            vcs.vcs, vcs.commit_id
        )));
    }
    match (url.strip_prefix("file://"), &direct.dir_info) {
        (Some(path), Some(_)) => Ok(Way::Local(path.replace("%20", " "))),
        // Of a wheel on this machine: its version may be in an index as well.
        (Some(_), None) => Ok(Way::Requirement(format!("{name}=={version}"))),
        (None, _) => Ok(Way::Requirement(format!("{name} @ {url}"))),
    }
}

/// Puts the source of a local package among the files.
fn pack(directory: &str, at: &str, spec: &mut EnvironmentSpecV1) -> Result<(), Error> {
    let options = CaptureOptions {
        directory: directory.into(),
        max_file_bytes: MAX_PACKAGE_BYTES,
        max_tree_bytes: MAX_PACKAGE_BYTES,
        cache_directory: None,
    };
    let progress = Terminal::unseen().progress("reading a local package");
    let captured = capture_code(&options, &progress)?;
    let start = match captured.working_directory.as_str() {
        "" => String::new(),
        directory => format!("{directory}/"),
    };
    for (path, blob) in files_of(&captured) {
        let Some(inside) = path.strip_prefix(&start) else {
            continue;
        };
        let content = match &blob.content {
            Content::Memory(bytes) => bytes.clone(),
            Content::File(file) => std::fs::read(file)
                .map_err(|source| Error::Source {
                    step: "read",
                    path: file.clone(),
                    source,
                })?
                .into(),
        };
        spec.files.push(types::EnvironmentFile {
            path: format!("{at}/{inside}"),
            content,
        });
    }
    Ok(())
}

/// The files of a capture with their paths; links and empty directories are no part of a package.
fn files_of(captured: &Capture) -> Vec<(String, &Blob)> {
    let blob = |hash| captured.blobs.iter().find(|blob| blob.hash == hash);
    let tree = blob(captured.tree).and_then(|tree| match &tree.content {
        Content::Memory(bytes) => codec::decode::<SourceTree>(bytes, codec::MAX_MESSAGE_BYTES).ok(), // made just now
        Content::File(_) => None,
    });
    let Some(SourceTree::V1 { entries, .. }) = tree else {
        return Vec::new();
    };
    let files = entries.into_iter().filter_map(|entry| match entry.kind {
        TreeEntryKind::File { hash, .. } => Some((entry.path, blob(hash)?)),
        TreeEntryKind::Symlink { .. } | TreeEntryKind::Directory => None,
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str) -> String {
        match way(&serde_json::from_str(json).unwrap()).unwrap() {
            Way::Requirement(line) => line,
            Way::Local(directory) => format!("in {directory}"),
        }
    }

    #[test]
    fn each_package_is_named_by_how_it_came() {
        let package = |rest: &str| {
            line(&format!(
                r#"{{"name": "x", "version": "1.2+cu121", {rest}}}"#
            ))
        };
        assert_eq!(package(r#""direct": null, "place": null"#), "x==1.2+cu121");
        assert_eq!(
            package(r#""direct": null, "place": "/home/ann/x""#),
            "in /home/ann/x"
        );
        let direct = |json: &str| package(&format!(r#""place": null, "direct": {json}"#));
        assert_eq!(
            direct(r#"{"url": "file:///home/ann/my%20x", "dir_info": {"editable": true}}"#),
            "in /home/ann/my x"
        );
        assert_eq!(
            direct(
                r#"{"url": "https://t@host/x.git", "vcs_info": {"vcs": "git", "commit_id": "01ab"}, "subdirectory": "py"}"#
            ),
            "x @ git+https://host/x.git@01ab#subdirectory=py"
        );
        assert_eq!(
            direct(r#"{"url": "https://host/x.whl", "archive_info": {}}"#),
            "x @ https://host/x.whl"
        );
    }
}
