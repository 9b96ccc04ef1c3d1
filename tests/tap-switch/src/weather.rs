//! What befalls a frame on its way.

use std::time::Duration;

use rand::Rng;

/// Chances are per million: integers, so that a seed gives the same on every machine.
const MILLION: u32 = 1_000_000;

/// The weather on the way between two ports; each frame is drawn for by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Time that each frame takes at least.
    pub delay: Duration,
    /// Up to so much more or less, evenly: frames overtake each other.
    pub jitter: Duration,
    /// Chance that a frame is lost, per million.
    pub loss_ppm: u32,
    /// Chance that a frame arrives twice, per million.
    pub duplicate_ppm: u32,
    /// Chance that a frame skips the delay and overtakes those before it, per million.
    pub reorder_ppm: u32,
}

impl Weather {
    /// A cable.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
        }
    }

    /// A long way that loses frames.
    #[must_use]
    pub const fn far(delay: Duration, loss_percent: u32) -> Self {
        Self {
            delay,
            loss_ppm: loss_percent * (MILLION / 100),
            ..Self::calm()
        }
    }

    /// The delays after which copies of a frame arrive: none if it is lost, two if it is doubled.
    pub(crate) fn draw(&self, chance: &mut impl Rng) -> Draw {
        // All chances are drawn for each frame, so that one setting does not shift the draws of the others.
        let lost = chance.random_range(0..MILLION) < self.loss_ppm;
        let doubled = chance.random_range(0..MILLION) < self.duplicate_ppm;
        let reordered = chance.random_range(0..MILLION) < self.reorder_ppm;
        let delays = [self.delay(chance), self.delay(chance)];
        Draw {
            copies: match (lost, doubled) {
                (true, _) => 0,
                (false, false) => 1,
                (false, true) => 2,
            },
            reordered,
            delays: if reordered {
                [Duration::ZERO; 2]
            } else {
                delays
            },
        }
    }

    fn delay(&self, chance: &mut impl Rng) -> Duration {
        let jitter = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX / 4);
        let drawn = Duration::from_micros(chance.random_range(0..=2 * jitter));
        (self.delay + drawn).saturating_sub(self.jitter)
    }
}

/// What was drawn for one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) copies: usize,
    pub(crate) reordered: bool,
    pub(crate) delays: [Duration; 2],
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn draws(weather: Weather, seed: u64) -> Vec<Draw> {
        let mut chance = StdRng::seed_from_u64(seed);
        (0..20_000).map(|_| weather.draw(&mut chance)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_weather_and_another_seed_another() {
        let storm = Weather {
            delay: Duration::from_millis(25),
            jitter: Duration::from_millis(10),
            loss_ppm: 200_000,
            duplicate_ppm: 100_000,
            reorder_ppm: 50_000,
        };
        assert_eq!(draws(storm, 7), draws(storm, 7));
        assert_ne!(draws(storm, 7), draws(storm, 8));
    }

    #[test]
    fn chances_and_delays_are_those_that_were_asked_for() {
        let storm = Weather {
            delay: Duration::from_millis(25),
            jitter: Duration::from_millis(10),
            loss_ppm: 200_000,
            duplicate_ppm: 100_000,
            reorder_ppm: 50_000,
        };
        let draws = draws(storm, 1);
        let per_cent = |count: usize| count * 100 / draws.len();
        let lost = draws.iter().filter(|draw| draw.copies == 0).count();
        let doubled = draws.iter().filter(|draw| draw.copies == 2).count();
        let reordered = draws.iter().filter(|draw| draw.reordered).count();
        assert!((19..=21).contains(&per_cent(lost)), "{lost}");
        assert!((7..=9).contains(&per_cent(doubled)), "{doubled}");
        assert!((4..=6).contains(&per_cent(reordered)), "{reordered}");
        let late: Vec<_> = draws.iter().filter(|draw| !draw.reordered).collect();
        let delays = || late.iter().flat_map(|draw| draw.delays);
        let (least, most) = (delays().min().unwrap(), delays().max().unwrap());
        assert!(least >= Duration::from_millis(15) && least < Duration::from_millis(16));
        assert!(most <= Duration::from_millis(35) && most > Duration::from_millis(34));
    }

    #[test]
    fn calm_weather_does_nothing() {
        let calm = Draw {
            copies: 1,
            reordered: false,
            delays: [Duration::ZERO; 2],
        };
        assert!(draws(Weather::calm(), 3).iter().all(|draw| *draw == calm));
    }
}
