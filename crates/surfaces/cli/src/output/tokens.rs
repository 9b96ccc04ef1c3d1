//! `muster user` and `muster token ls`.

use rest::wire::{CallerView, JoinTokenView, UserTokenView};

use super::amounts::{ago, plain, span};
use super::look::Look;
use super::sheet::{Sheet, cell, word};

/// Who asks, and what decides their role.
pub(crate) fn caller(caller: &CallerView) -> String {
    let by = match &caller.token {
        Some(token) => format!("by token {}", plain(token)),
        None => "by the user id on its Unix socket".to_owned(),
    };
    format!(
        "you are {} ({}) on node {}, known {by}: {}",
        plain(&caller.user),
        plain(&caller.role),
        plain(&caller.node),
        plain(&caller.reason)
    )
}

/// The table of people's tokens.
pub(crate) fn user_tokens(tokens: &[UserTokenView], look: &Look) -> String {
    if tokens.is_empty() {
        return "no user tokens; `muster user add NAME` makes one".to_owned();
    }
    let heads = [
        "USER",
        "ROLE",
        "TOKEN",
        "MADE",
        "BY",
        "EXPIRES",
        "LAST USED",
    ];
    let mut sheet = Sheet::new(&heads, look);
    for token in tokens {
        let used = token.last_used_at;
        sheet.row(vec![
            cell(&token.user),
            cell(&token.role),
            cell(&token.id),
            cell(ago(look.now_ms, token.created_at)),
            cell(or_dash(&token.created_by)),
            cell(ends(token.expires_at, look)),
            cell(used.map_or_else(|| "never".to_owned(), |at| ago(look.now_ms, at))),
        ]);
    }
    sheet.text()
}

/// The table of join tokens.
pub(crate) fn join_tokens(tokens: &[JoinTokenView], look: &Look) -> String {
    if tokens.is_empty() {
        return "no join tokens; `muster token new` makes one".to_owned();
    }
    let heads = ["TOKEN", "STATE", "USES LEFT", "EXPIRES", "MADE BY"];
    let mut sheet = Sheet::new(&heads, look);
    for token in tokens {
        sheet.row(vec![
            cell(&token.id),
            word(&token.state),
            cell(token.uses_left.to_string()),
            cell(ends(Some(token.expires_at), look)),
            cell(or_dash(&token.created_by)),
        ]);
    }
    sheet.text()
}

fn ends(at: Option<u64>, look: &Look) -> String {
    match at {
        None => "never".to_owned(),
        Some(at) if at > look.now_ms => format!("in {}", span(at - look.now_ms)),
        Some(at) => format!("expired {}", ago(look.now_ms, at)),
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_their_end_and_their_last_use_and_no_secret() {
        let token = |id: &str, expires_at, last_used_at| UserTokenView {
            id: id.into(),
            user: "ada".into(),
            role: "member".into(),
            created_at: 0,
            created_by: "root@a".into(),
            expires_at,
            last_used_at,
            expired: false,
        };
        let tokens = [
            token("t-1", Some(14_400_000), Some(3_600_000)),
            token("t-2", Some(3_600_000), None),
            token("t-3", None, None),
        ];
        let text = user_tokens(&tokens, &Look::plain_at(7_200_000));
        let expected = "\
USER  ROLE    TOKEN  MADE     BY      EXPIRES          LAST USED
ada   member  t-1    2 h ago  root@a  in 2 h 0 min     1 h ago
ada   member  t-2    2 h ago  root@a  expired 1 h ago  never
ada   member  t-3    2 h ago  root@a  never            never
";
        assert_eq!(text, expected, "\n{text}");
    }
}
