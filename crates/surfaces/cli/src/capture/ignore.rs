//! `.musterignore`: what is left out. A small part of gitignore's language, with the same meaning.

use crate::error::Error;

/// The lines of a `.musterignore`.
#[derive(Debug, Default)]
pub(super) struct IgnoreRules {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// Parts of the path; `**` stands for any number of parts.
    parts: Vec<String>,
    /// Only directories.
    directory: bool,
    /// Takes back what a line above left out.
    keep: bool,
}

impl IgnoreRules {
    /// Reads the lines.
    ///
    /// # Errors
    /// A line uses what this small language lacks.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let rule = Rule::parse(line).map_err(|problem| Error::IgnoreFile {
                line: number + 1,
                problem,
            })?;
            rules.push(rule);
        }
        Ok(Self { rules })
    }

    /// There are none.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The path is left out, by itself or with a directory above it.
    pub(super) fn leave_out(&self, path: &str, is_directory: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let parts: Vec<&str> = path.split('/').collect();
        (1..=parts.len()).any(|end| self.matches(&parts[..end], is_directory || end < parts.len()))
    }

    /// The last rule that matches decides.
    fn matches(&self, parts: &[&str], is_directory: bool) -> bool {
        let matching = self
            .rules
            .iter()
            .rev()
            .find(|rule| (is_directory || !rule.directory) && parts_match(&rule.parts, parts));
        matching.is_some_and(|rule| !rule.keep)
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let (keep, line) = match line.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, line.strip_prefix('\\').unwrap_or(line)),
        };
        if line.contains('[') {
            return Err("character classes such as [a-z] are not known here");
        }
        if line.contains('\\') {
            return Err("a backslash is known only as the first character, before # or !");
        }
        let (line, directory) = match line.strip_suffix('/') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        // A slash at the front or inside ties the pattern to the root.
        let anchored = line.contains('/');
        let line = line.strip_prefix('/').unwrap_or(line);
        if line.is_empty() || line.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("the pattern is empty or has an empty, `.` or `..` part");
        }
        let mut parts: Vec<String> = line.split('/').map(str::to_owned).collect();
        if !anchored {
            parts.insert(0, "**".to_owned());
        }
        // `a/**` means what is in a, not a itself.
        if parts.last().is_some_and(|part| part == "**") {
            parts.push("*".to_owned());
        }
        Ok(Self {
            parts,
            directory,
            keep,
        })
    }
}

fn parts_match(pattern: &[String], parts: &[&str]) -> bool {
    match pattern.split_first() {
        None => parts.is_empty(),
        Some((first, rest)) if first == "**" => {
            (0..=parts.len()).any(|skipped| parts_match(rest, &parts[skipped..]))
        }
        Some((first, rest)) => match parts.split_first() {
            Some((part, others)) => {
                glob_matches(first.as_bytes(), part.as_bytes()) && parts_match(rest, others)
            }
            None => false,
        },
    }
}

/// Matches one part against `*` and `?`, going back only to the last star.
fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(rules: &str, path: &str) -> bool {
        IgnoreRules::parse(rules).unwrap().leave_out(path, false)
    }

    #[test]
    fn a_name_is_left_out_at_any_depth_and_with_all_below_it() {
        assert!(left_out("*.bin", "big.bin"));
        assert!(left_out("*.bin", "data/raw/big.bin"));
        assert!(left_out("data", "x/data/y/z"));
        assert!(!left_out("data", "x/database"));
        assert!(left_out("# c\n\n  \n?.log  ", "a/b.log"));
    }

    #[test]
    fn a_slash_ties_the_pattern_to_the_root() {
        assert!(left_out("/out", "out/x"));
        assert!(!left_out("/out", "src/out/x"));
        assert!(left_out("src/*.o", "src/a.o"));
        assert!(!left_out("src/*.o", "src/deep/a.o"));
        assert!(left_out("src/**/a.o", "src/a.o"));
        assert!(left_out("src/**/a.o", "src/x/y/a.o"));
        assert!(left_out("src/**", "src/x/y"));
        assert!(!left_out("src/**", "src"));
    }

    #[test]
    fn a_slash_at_the_end_means_directories_only() {
        assert!(left_out("build/", "build/x"));
        assert!(!left_out("build/", "build"));
        assert!(
            IgnoreRules::parse("build/")
                .unwrap()
                .leave_out("build", true)
        );
    }

    #[test]
    fn the_last_match_decides_but_nothing_returns_from_a_directory_left_out() {
        assert!(!left_out("*.log\n!keep.log", "a/keep.log"));
        assert!(left_out("!keep.log\n*.log", "keep.log"));
        assert!(left_out("logs/\n!logs/keep.log", "logs/keep.log"));
        assert!(left_out("\\!odd", "!odd"));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let name = "a".repeat(200);
        assert!(!left_out(&format!("{}b", "*a".repeat(40)), &name));
    }

    #[test]
    fn what_is_not_understood_is_said_with_its_line() {
        for bad in ["ok\n[a-z]", "ok\na\\b", "ok\n/", "ok\na//b", "ok\n../x"] {
            let error = IgnoreRules::parse(bad).unwrap_err();
            assert!(error.to_string().contains("line 2"), "{bad}: {error}");
        }
    }
}
