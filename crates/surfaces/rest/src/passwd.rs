//! From a user id to a login name, by `/etc/passwd` alone: no name service is asked, so no directory server
//! can delay or rename a local user.

use std::path::Path;

/// Longest login name that is taken over (Linux `useradd` allows 32).
const MAX_NAME_BYTES: usize = 64;

/// Login name of `user_id`, else `uid-N`.
pub(crate) async fn user_name(user_id: u32) -> String {
    let path = Path::new("/etc/passwd");
    let text = tokio::fs::read_to_string(path)
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "passwd file not readable, users go by number");
            String::new()
        });
    name_in(&text, user_id).map_or_else(|| format!("uid-{user_id}"), str::to_owned)
}

fn name_in(passwd: &str, user_id: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?; // a line that is not an entry names nobody
        (id == user_id && is_plain(name)).then_some(name)
    })
}

/// Names that can be shown and compared safely; the others go by number.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with("uid-")
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# note\nbroken\nev il:x:7:7::/:\nuid-0:x:9:9::/:\nada.l:x:1000:1000:Ada,,,:/home/ada:/bin/sh\n";

    #[test]
    fn finds_the_name_of_an_id() {
        assert_eq!(name_in(PASSWD, 0), Some("root"));
        assert_eq!(name_in(PASSWD, 1000), Some("ada.l"));
        assert_eq!(name_in(PASSWD, 1), None);
    }

    #[test]
    fn strange_names_and_names_that_look_like_numbers_are_not_taken() {
        assert_eq!(name_in(PASSWD, 7), None);
        assert_eq!(name_in(PASSWD, 9), None);
    }

    #[tokio::test]
    async fn unknown_users_go_by_number() {
        assert_eq!(user_name(0).await, "root");
        assert_eq!(user_name(3_999_999_999).await, "uid-3999999999");
    }
}
