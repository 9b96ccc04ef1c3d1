//! Unified differences of texts, after E. W. Myers, *An O(ND) difference algorithm and its variations* (1986). Pure.

/// Unchanged lines around a change.
const CONTEXT: usize = 3;
/// Most lines that are taken out and put in together: time and memory grow with its square, 32 MB here.
const MAX_EDITS: usize = 2_000;

/// A line of both texts, or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Keep { old: usize, new: usize },
    Remove { old: usize },
    Insert { new: usize },
}

/// The difference between two named texts; none if they are too different.
pub(super) fn unified(
    (old_name, old): (&str, &str),
    (new_name, new): (&str, &str),
) -> Option<String> {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let edits = edits(&old, &new)?;
    let mut text = format!("--- {old_name}\n+++ {new_name}\n");
    for hunk in hunks(&edits) {
        write_hunk(&mut text, hunk, (&old, &new));
    }
    Some(text)
}

/// From the first line to the last; none if there are more than [`MAX_EDITS`] changes.
fn edits(old: &[&str], new: &[&str]) -> Option<Vec<Edit>> {
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let head = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev());
    let tail = tail.take_while(same).count();
    let middle_old = &old_rest[..old_rest.len() - tail];
    let middle_new = &new_rest[..new_rest.len() - tail];
    let mut edits: Vec<Edit> = (0..head)
        .map(|at| Edit::Keep { old: at, new: at })
        .collect();
    edits.extend(
        shortest(middle_old, middle_new)?
            .into_iter()
            .map(|edit| match edit {
                Edit::Keep { old, new } => Edit::Keep {
                    old: old + head,
                    new: new + head,
                },
                Edit::Remove { old } => Edit::Remove { old: old + head },
                Edit::Insert { new } => Edit::Insert { new: new + head },
            }),
    );
    let (old_from, new_from) = (old.len() - tail, new.len() - tail);
    edits.extend((0..tail).map(|at| Edit::Keep {
        old: old_from + at,
        new: new_from + at,
    }));
    Some(edits)
}

/// The shortest way from one to the other. `furthest[k]` is how far into `old` a way gets on diagonal `k` (lines of `old`
/// less lines of `new`) with the number of edits so far; each round's is kept to walk back.
fn shortest(old: &[&str], new: &[&str]) -> Option<Vec<Edit>> {
    let most = (old.len() + new.len()).min(MAX_EDITS);
    // Diagonals from -most to most, and one beyond each.
    let middle = most + 1;
    let mut furthest = vec![0_usize; 2 * middle + 1];
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for count in 0..=most {
        rounds.push(furthest[middle - count..=middle + count].to_vec());
        for step in 0..=count {
            // Diagonal -count + 2 * step, shifted by `middle`.
            let at = middle + 2 * step - count;
            let down = step == 0 || (step != count && furthest[at - 1] < furthest[at + 1]);
            let mut x = match down {
                true => furthest[at + 1],
                false => furthest[at - 1] + 1,
            };
            let Some(mut y) = (x + middle).checked_sub(at) else {
                continue;
            };
            while x < old.len() && y < new.len() && old[x] == new[y] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[at] = x;
            if x >= old.len() && y >= new.len() {
                return Some(walk_back(&rounds, (old.len(), new.len())));
            }
        }
    }
    None
}

/// The edits of the way that was found.
fn walk_back(rounds: &[Vec<usize>], (mut x, mut y): (usize, usize)) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (count, furthest) in rounds.iter().enumerate().rev() {
        // `furthest` is as it was before this round, its middle at `count`.
        let at = count + x - y;
        let value = |at: usize| furthest.get(at).copied().unwrap_or(0);
        let is_lowest = at == 0;
        let is_highest = at == 2 * count;
        let down = is_lowest || (!is_highest && value(at - 1) < value(at + 1));
        let (from_x, from_y) = match (count, down) {
            (0, _) => (0, 0),
            (_, true) => {
                let x = value(at + 1);
                (x, x + count - (at + 1))
            }
            (_, false) => {
                let x = value(at - 1);
                (x, x + count - (at - 1))
            }
        };
        while x > from_x && y > from_y {
            (x, y) = (x - 1, y - 1);
            edits.push(Edit::Keep { old: x, new: y });
        }
        if count > 0 {
            match down {
                true => edits.push(Edit::Insert { new: from_y }),
                false => edits.push(Edit::Remove { old: from_x }),
            }
        }
        (x, y) = (from_x, from_y);
    }
    edits.reverse();
    edits
}

/// Changes that are near each other, each with its context.
fn hunks(edits: &[Edit]) -> Vec<&[Edit]> {
    let is_change = |edit: &Edit| !matches!(edit, Edit::Keep { .. });
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (at, _) in edits.iter().enumerate().filter(|(_, edit)| is_change(edit)) {
        let (from, to) = (
            at.saturating_sub(CONTEXT),
            (at + 1 + CONTEXT).min(edits.len()),
        );
        match ranges.last_mut() {
            Some(last) if from <= last.1 => last.1 = to,
            _ => ranges.push((from, to)),
        }
    }
    ranges
        .into_iter()
        .map(|(from, to)| &edits[from..to])
        .collect()
}

fn write_hunk(text: &mut String, hunk: &[Edit], (old, new): (&[&str], &[&str])) {
    let olds = hunk.iter().filter_map(|edit| match edit {
        Edit::Keep { old, .. } | Edit::Remove { old } => Some(*old),
        Edit::Insert { .. } => None,
    });
    let news = hunk.iter().filter_map(|edit| match edit {
        Edit::Keep { new, .. } | Edit::Insert { new } => Some(*new),
        Edit::Remove { .. } => None,
    });
    let range = |mut lines: Box<dyn Iterator<Item = usize> + '_>| {
        let first = lines.next();
        let count = lines.count() + usize::from(first.is_some());
        // An empty side counts from the line before, which the other side's context tells.
        let from = first.map_or(0, |line| line + 1);
        format!("{from},{count}")
    };
    let header = format!(
        "@@ -{} +{} @@\n",
        range(Box::new(olds)),
        range(Box::new(news))
    );
    text.push_str(&header);
    for edit in hunk {
        let (sign, line) = match *edit {
            Edit::Keep { old: at, .. } => (' ', old[at]),
            Edit::Remove { old: at } => ('-', old[at]),
            Edit::Insert { new: at } => ('+', new[at]),
        };
        text.push(sign);
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str("\n\\ No newline at end of file\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn diff(old: &str, new: &str) -> String {
        unified(("a/x", old), ("b/x", new)).unwrap()
    }

    #[test]
    fn a_change_is_shown_with_its_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = old.replace("5\n", "five\n");
        assert_eq!(
            diff(old, &new),
            "--- a/x\n+++ b/x\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        );
        assert_eq!(
            diff("", "a\nb"),
            "--- a/x\n+++ b/x\n@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n"
        );
        assert_eq!(diff("a\n", ""), "--- a/x\n+++ b/x\n@@ -1,1 +0,0 @@\n-a\n");
        assert_eq!(diff("a\n", "a\n"), "--- a/x\n+++ b/x\n");
    }

    #[test]
    fn changes_far_apart_are_hunks_of_their_own() {
        let line = |number: u32| format!("{number}\n");
        let old: String = (0..40).map(line).collect();
        let new = old.replace("\n3\n", "\nx\n").replace("\n30\n", "\n");
        let text = diff(&old, &new);
        assert_eq!(text.matches("@@ -").count(), 2, "{text}");
        assert!(text.contains("@@ -28,7 +28,6 @@\n"), "{text}");
    }

    #[test]
    fn texts_that_have_nothing_in_common_cost_no_more_than_the_bound() {
        let many = |word: &str| -> String { (0..50_000).map(|n| format!("{word}{n}\n")).collect() };
        assert_eq!(unified(("a", &many("x")), ("b", &many("y"))), None);
    }

    /// What a diff makes of the old text.
    fn applied(old: &str, diff: &str) -> String {
        let old: Vec<&str> = old.split_inclusive('\n').collect();
        let (mut at, mut new) = (0, String::new());
        let mut lines = diff.split_inclusive('\n').skip(2).peekable();
        while let Some(line) = lines.next() {
            let unended = lines.peek().is_some_and(|next| next.starts_with('\\'));
            let content = &line[1..];
            let content = if unended {
                content.trim_end_matches('\n')
            } else {
                content
            };
            match &line[..1] {
                "@" => {
                    let from: usize = line[4..].split(',').next().unwrap().parse().unwrap();
                    let until = from.saturating_sub(1);
                    new.extend(old[at..until.max(at)].iter().copied());
                    at = until.max(at);
                }
                " " => {
                    assert_eq!(old[at], content);
                    new.push_str(content);
                    at += 1;
                }
                "-" => {
                    assert_eq!(old[at], content);
                    at += 1;
                }
                "+" => new.push_str(content),
                _ => {}
            }
        }
        new.extend(old[at..].iter().copied());
        new
    }

    /// Lines that must be taken out or put in, by the table of longest common subsequences.
    fn fewest(old: &[&str], new: &[&str]) -> usize {
        let mut row = vec![0; new.len() + 1];
        for line in old {
            let mut diagonal = 0;
            for at in 0..new.len() {
                let above = row[at + 1];
                row[at + 1] = if *line == new[at] {
                    diagonal + 1
                } else {
                    above.max(row[at])
                };
                diagonal = above;
            }
        }
        old.len() + new.len() - 2 * row[new.len()]
    }

    proptest! {
        #[test]
        fn a_diff_makes_the_new_text_out_of_the_old_by_the_fewest_lines(
            old in "([abc]\n){0,24}[ab]?",
            new in "([abc]\n){0,24}[ab]?",
        ) {
            let text = diff(&old, &new);
            prop_assert_eq!(&applied(&old, &text), &new, "{}", text);
            let olds: Vec<&str> = old.split_inclusive('\n').collect();
            let news: Vec<&str> = new.split_inclusive('\n').collect();
            let changed = text.lines().skip(2).filter(|line| line.starts_with(['+', '-'])).count();
            prop_assert_eq!(changed, fewest(&olds, &news), "{}", text);
        }
    }
}
