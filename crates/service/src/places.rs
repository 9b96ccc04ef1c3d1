//! Places of parameters in a command: what a person may have mistyped.

use types::{ExperimentSpec, parameter_places, parameter_variable};

/// Most that is said at once: a program that is full of braces needs no page of warnings.
const MAX_WARNINGS: usize = 3;

/// What looks like a place of a parameter and is none. Said only where there are parameters: without any, braces are
/// text.
pub(crate) fn unknown_places(spec: &ExperimentSpec) -> Vec<String> {
    if spec.parameters.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = spec
        .parameters
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let texts = spec.command.iter();
    let texts = texts.chain(spec.variables.iter().map(|(_, value)| value));
    let mut unknown: Vec<&str> = Vec::new();
    for place in texts.flat_map(|text| parameter_places(text)) {
        if !names.contains(&place) && !unknown.contains(&place) {
            unknown.push(place);
        }
    }
    let known = names.join(", ");
    let warning = |place: &&str| {
        format!("{{{place}}} names no parameter ({known}): it goes to the command as it is written")
    };
    unknown.iter().take(MAX_WARNINGS).map(warning).collect()
}

/// Parameters that a clone gives, of which neither the original nor the command knows.
pub(crate) fn useless_parameters(original: &ExperimentSpec, clone: &ExperimentSpec) -> Vec<String> {
    let texts = clone.command.iter();
    let texts = texts.chain(clone.variables.iter().map(|(_, value)| value));
    let used: Vec<&str> = texts.flat_map(|text| parameter_places(text)).collect();
    let known = |name: &String| original.parameters.iter().any(|(known, _)| known == name);
    let names = clone.parameters.iter().map(|(name, _)| name);
    let useless = names.filter(|name| !known(name) && !used.contains(&name.as_str()));
    let warning = |name: &String| {
        let variable = parameter_variable(name);
        format!(
            "{name} was no parameter and stands nowhere in the command: only the variable {variable} carries it"
        )
    };
    useless.take(MAX_WARNINGS).map(warning).collect()
}
