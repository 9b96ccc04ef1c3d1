//! The scheduler from outside: over real states and views.

#[cfg(test)]
mod gangs;
#[cfg(test)]
mod leader;
#[cfg(test)]
mod reasons;
#[cfg(test)]
mod scheduling;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod starvation;
