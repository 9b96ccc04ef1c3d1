//! Builds ask the node for packages, which asks other nodes before it goes out.

/// The node's own package index, on this machine only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageIndex {
    /// Its address, with the login that keeps other users of the machine out.
    pub url: String,
}

/// What names an index or says how to get to one. Certificates and proxies stay: files of an experiment may name indexes of
/// their own.
const REPLACED: [&str; 6] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
];
/// Seconds for the first byte of a package: a large one is here as a whole before it is passed on.
const PATIENCE_S: &str = "1200";

/// The same settings with the node's index in place of those of the machine; unchanged where none is to be used.
pub(super) fn through(
    index: Option<&PackageIndex>,
    mut settings: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let is_off = |(name, value): &(String, String)| {
        name == "PIP_NO_INDEX" && !["", "0", "false"].contains(&value.as_str())
    };
    let Some(index) = index else { return settings };
    if settings.iter().any(is_off) {
        return settings;
    }
    settings.retain(|(name, _)| !REPLACED.contains(&name.as_str()));
    for name in ["no_proxy", "NO_PROXY"] {
        let known = settings.iter_mut().find(|(known, _)| known == name);
        match known {
            Some((_, value)) if value.is_empty() => "127.0.0.1".clone_into(value),
            Some((_, value)) => value.push_str(",127.0.0.1"),
            None => settings.push((name.to_owned(), "127.0.0.1".to_owned())),
        }
    }
    for (name, value) in [
        ("PIP_INDEX_URL", index.url.as_str()),
        ("UV_DEFAULT_INDEX", &index.url),
        ("PIP_DEFAULT_TIMEOUT", PATIENCE_S),
        ("UV_HTTP_TIMEOUT", PATIENCE_S),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_ask_the_node_and_nobody_else() {
        let index = PackageIndex {
            url: "http://muster:x@127.0.0.1:1/simple".to_owned(),
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let machine = vec![
            pair("PIP_EXTRA_INDEX_URL", "http://b.example"),
            pair("UV_INDEX_URL", "http://a.example"),
            pair("no_proxy", "b.example"),
            pair("SSL_CERT_FILE", "/c"),
        ];
        let told = through(Some(&index), machine.clone());
        let value = |name: &str| {
            let found = told.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("PIP_INDEX_URL"), Some(index.url.as_str()));
        assert_eq!(value("UV_DEFAULT_INDEX"), Some(index.url.as_str()));
        assert_eq!(value("UV_INDEX_URL"), None);
        assert_eq!(value("PIP_EXTRA_INDEX_URL"), None);
        assert_eq!(value("SSL_CERT_FILE"), Some("/c"));
        assert_eq!(value("no_proxy"), Some("b.example,127.0.0.1"));
        assert_eq!(through(None, machine.clone()), machine);
        let off = vec![pair("PIP_NO_INDEX", "1")];
        assert_eq!(through(Some(&index), off.clone()), off);
    }
}
