//! Where packages come from: what this machine is told about package indexes, for `uv` and `pip` alike.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::python::Python;

/// Variables of the node that say where packages are and how to get there.
const PASSED: [&str; 22] = [
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];
/// Longest time for pip to print its settings.
const PATIENCE: Duration = Duration::from_secs(30);

/// The settings of the node's process.
pub(crate) fn of_node() -> Vec<(String, String)> {
    let known = |name: &&str| Some(((*name).to_owned(), std::env::var(*name).ok()?)); // not text: not passed on
    PASSED.iter().filter_map(known).collect()
}

/// The settings of the node's process with those of pip on this machine, as variables that both programs read.
pub(super) async fn settings(
    python: &Python,
    node: &[(String, String)],
    host: &[(String, String)],
) -> Vec<(String, String)> {
    let listed = Command::new(&python.executable)
        .args(["-m", "pip", "--disable-pip-version-check", "config", "list"])
        .env_clear()
        .envs(host.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let text = match tokio::time::timeout(PATIENCE, listed).await {
        Ok(Ok(output)) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => String::new(), // no pip here: it says nothing
    };
    joined(node, &text)
}

/// Variables come before pip's files, as for pip itself; what only one program was told, the other is told too.
fn joined(node: &[(String, String)], pip: &str) -> Vec<(String, String)> {
    let mut settings = node.to_vec();
    for (option, names) in [
        ("index-url", ["PIP_INDEX_URL", "UV_DEFAULT_INDEX"]),
        ("extra-index-url", ["PIP_EXTRA_INDEX_URL", "UV_INDEX"]),
        ("find-links", ["PIP_FIND_LINKS", "UV_FIND_LINKS"]),
        ("trusted-host", ["PIP_TRUSTED_HOST", "UV_INSECURE_HOST"]),
        ("cert", ["PIP_CERT", "SSL_CERT_FILE"]),
        ("proxy", ["http_proxy", "https_proxy"]),
    ] {
        let told = |name: &str| {
            let found = node.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let old = match option {
            "index-url" => told("UV_INDEX_URL"),
            "extra-index-url" => told("UV_EXTRA_INDEX_URL"),
            _ => None,
        };
        let value = names
            .iter()
            .find_map(|name| told(name))
            .or(old)
            .or_else(|| pip_option(pip, option));
        let Some(value) = value else { continue };
        for name in names {
            if told(name).is_none() {
                settings.push((name.to_owned(), value.clone()));
            }
        }
    }
    settings
}

/// `global.index-url='https://…'` of `pip config list`; a section `install` comes before `global`.
fn pip_option(listed: &str, option: &str) -> Option<String> {
    let values = |section: &str| {
        let start = format!("{section}.{option}=");
        let line = listed.lines().find_map(|line| line.strip_prefix(&start))?;
        let value = line.trim().trim_matches(['\'', '"']);
        // Several values are on lines of their own, which pip prints as \n.
        let words: Vec<&str> = value.split("\\n").map(str::trim).collect();
        Some(words.join(" ").trim().to_owned())
    };
    values("install").or_else(|| values("global"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(settings: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let found = settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn both_programs_learn_what_one_was_told_and_variables_come_first() {
        let pip = "global.index-url='http://a.example/simple'\nglobal.trusted-host='a.example'\n";
        let settings = joined(&[], pip);
        for name in ["PIP_INDEX_URL", "UV_DEFAULT_INDEX"] {
            assert_eq!(value(&settings, name), Some("http://a.example/simple"));
        }
        assert_eq!(value(&settings, "UV_INSECURE_HOST"), Some("a.example"));
        let told = |name: &str| vec![(name.to_owned(), "http://b.example/simple".to_owned())];
        for name in ["UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"] {
            let settings = joined(&told(name), pip);
            assert_eq!(
                value(&settings, "PIP_INDEX_URL"),
                Some("http://b.example/simple"),
                "{name}"
            );
            assert_eq!(
                value(&settings, "UV_DEFAULT_INDEX"),
                Some("http://b.example/simple"),
                "{name}"
            );
        }
        assert_eq!(joined(&[], ""), Vec::new());
    }

    #[test]
    fn settings_of_pip_are_read_as_it_prints_them() {
        let listed = ":env:.x='1'\nglobal.extra-index-url='\\nhttp://a/\\nhttp://b/'\ninstall.index-url='http://c/'\nglobal.index-url='http://d/'\n";
        let option = |name| pip_option(listed, name);
        assert_eq!(
            option("extra-index-url").as_deref(),
            Some("http://a/ http://b/")
        );
        assert_eq!(option("index-url").as_deref(), Some("http://c/"));
        assert_eq!(option("cert"), None);
    }
}
