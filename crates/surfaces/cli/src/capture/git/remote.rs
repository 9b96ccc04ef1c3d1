//! Which remote to name, and how without its secrets.

/// The URL of `origin`, else the first, from `git config -z --get-regexp`.
pub(super) fn preferred(output: &[u8]) -> Option<&str> {
    let records = output.split(|&byte| byte == 0);
    let urls: Vec<(&str, &str)> = records
        .filter_map(|record| std::str::from_utf8(record).ok()) // what is not UTF-8 cannot be shown
        .filter_map(|record| record.split_once('\n'))
        .collect();
    let origin = urls.iter().find(|(key, _)| *key == "remote.origin.url");
    origin.or(urls.first()).map(|(_, url)| *url)
}

/// The URL without user and password (`ssh` keeps the user, which is no secret), query and fragment.
pub(super) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // `host:path` of ssh, or a path: neither holds a password. Helpers such as `ext::` may hold anything.
        return if url.contains("::") {
            String::new()
        } else {
            url.to_owned()
        };
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = credentials.split(':').next().unwrap_or_default();
    let keeps_user = scheme.ends_with("ssh") && !user.is_empty();
    let user = if keeps_user {
        format!("{user}@")
    } else {
        String::new()
    };
    format!("{scheme}://{user}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_remotes() {
        for (url, shown) in [
            (
                "https://bob:token@example.org/a/b.git",
                "https://example.org/a/b.git",
            ),
            ("https://token@example.org", "https://example.org"),
            (
                "https://example.org/a?private_token=x#y",
                "https://example.org/a",
            ),
            ("https://a:b@c@example.org/x@y", "https://example.org/x@y"),
            (
                "ssh://git:pw@example.org:22/a",
                "ssh://git@example.org:22/a",
            ),
            ("git@example.org:a/b.git", "git@example.org:a/b.git"),
            ("/srv/git/a.git", "/srv/git/a.git"),
            ("ext::sh -c 'secret'", ""),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }

    #[test]
    fn origin_is_preferred() {
        let output = b"remote.a.url\nhttps://a\0remote.origin.url\nhttps://o\0";
        assert_eq!(preferred(output), Some("https://o"));
        assert_eq!(preferred(&output[..24]), Some("https://a"));
        assert_eq!(preferred(b""), None);
    }
}
