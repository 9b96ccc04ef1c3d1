//! A loss that is not a number any more: from metric lines while they come, and from the last lines of output.

use std::collections::BTreeMap;

use crate::console::{Console, Line, short};

/// Most metrics that are watched: programs that name one per layer would take the holder's memory.
const MAX_WATCHED: usize = 64;
/// Parts of a name that make it no training loss. Of a validation set that is empty the mean is NaN, and nothing is wrong.
const NOT_OF_TRAINING: [&str; 4] = ["val", "eval", "test", "dev"];

/// Remembers since which step each loss is NaN.
#[derive(Clone, Debug, Default)]
pub struct LossWatch {
    /// By name: since when it is NaN; none while it is a number.
    losses: BTreeMap<String, Option<i64>>,
}

impl LossWatch {
    /// A point of a metric; all but losses are ignored.
    pub fn see(&mut self, name: &str, step: i64, value: f64) {
        if !is_training_loss(name) {
            return;
        }
        if !self.losses.contains_key(name) && self.losses.len() >= MAX_WATCHED {
            return;
        }
        let since = self.losses.entry(name.to_owned()).or_default();
        *since = match (value.is_nan(), *since) {
            (false, _) => None,
            (true, Some(since)) => Some(since),
            (true, None) => Some(step),
        };
    }

    /// A line about each loss that is NaN now.
    pub(crate) fn words(&self) -> Vec<String> {
        let lost = self.losses.iter().filter_map(|(name, since)| {
            let name = short(&crate::console::clean(name), 80);
            since.map(|step| format!("metric {name} is NaN since step {step}"))
        });
        lost.take(2).collect()
    }
}

/// `loss`, `train/loss`, `lossD`, `training_loss`; not `val_loss`, `glossary`.
fn is_training_loss(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let mut words = lower.split(|letter: char| !letter.is_ascii_alphanumeric());
    let is_loss = |word: &str| word.starts_with("loss") || word.ends_with("loss");
    let is_other = |word: &str| {
        NOT_OF_TRAINING.iter().any(|other| {
            word.strip_prefix(other).is_some_and(|rest| {
                matches!(rest, "" | "loss" | "uation" | "idation" | "id" | "ing")
            })
        })
    };
    words.clone().any(is_loss) && !words.any(is_other)
}

/// What the last lines say of a loss that stayed NaN.
pub(crate) fn in_console(console: &Console) -> Option<String> {
    last_of(&console.out).or_else(|| last_of(&console.err))
}

/// The last line that gives a training loss, if it gives NaN.
fn last_of(lines: &[Line]) -> Option<String> {
    for line in lines.iter().rev() {
        if let Some(is_nan) = loss_in(&line.text) {
            return is_nan.then(|| short(&line.text, 200));
        }
    }
    None
}

/// Whether the training loss that this line gives is NaN; none if it gives none. `loss: nan`, `train_loss=0.3`,
/// `{"loss": NaN}`, `Loss is nan, stopping training`.
fn loss_in(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let is_of_word = |letter: char| {
        letter.is_ascii_alphanumeric() || matches!(letter, '_' | '/' | '.' | '-' | '+')
    };
    let words = lower.split(|letter: char| !is_of_word(letter));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let mut found = None;
    for (at, word) in words.iter().enumerate() {
        // `val loss: nan` names it in two words.
        let before = at.checked_sub(1).map_or("", |before| words[before]);
        let is_other = NOT_OF_TRAINING
            .iter()
            .any(|other| before.starts_with(other));
        if !is_training_loss(word) || is_other {
            continue;
        }
        let value = match words.get(at + 1) {
            Some(&("is" | "was" | "became")) => words.get(at + 2),
            value => value,
        };
        let value = value.map_or("", |value| value.trim_end_matches('.'));
        if value == "nan" {
            return Some(true);
        }
        if value.parse::<f64>().is_ok() {
            found = Some(false);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_recovers_is_not_lost() {
        let mut watch = LossWatch::default();
        watch.see("train/loss", 3, f64::NAN);
        watch.see("train/loss", 4, f64::NAN);
        watch.see("val_loss", 4, f64::NAN);
        watch.see("accuracy", 4, f64::NAN);
        assert_eq!(watch.words(), ["metric train/loss is NaN since step 3"]);
        watch.see("train/loss", 5, 0.5);
        assert_eq!(watch.words(), Vec::<String>::new());
        for layer in 0..1_000 {
            watch.see(&format!("loss_{layer}"), 0, f64::NAN);
        }
        assert_eq!(watch.losses.len(), MAX_WATCHED);
    }

    #[test]
    fn losses_are_read_as_people_print_them() {
        for text in [
            "loss: nan",
            "epoch 3 train_loss=nan lr 0.1",
            r#"{"loss": NaN, "step": 3}"#,
            "Loss is nan, stopping training",
            "step 10 | loss nan | 3.2 it/s",
            "total loss: nan.",
        ] {
            assert_eq!(loss_in(text), Some(true), "{text}");
        }
        for text in ["loss: 0.25", "train loss=1e-3 val_auc=nan"] {
            assert_eq!(loss_in(text), Some(false), "{text}");
        }
        for text in [
            "val_loss: nan",
            "val loss: nan",
            "test/loss nan",
            "no nan in the loss",
            "glossary: nan",
            "nan",
            "checking whether loss is finite",
        ] {
            assert_eq!(loss_in(text), None, "{text}");
        }
    }
}
