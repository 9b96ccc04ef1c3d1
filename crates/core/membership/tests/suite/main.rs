//! What the crate promises, by name.

// Integration tests are always built for tests; the attribute says so to clippy, which allows more there.
#[cfg(test)]
mod changes;
#[cfg(test)]
mod detector;
#[cfg(test)]
mod voters;
