//! Which timesteps of training a schedule visits (Lin et al. 2023, arXiv 2305.08891, table 2).

use super::fields::{Choice, Fields};
use crate::error::{Error, ErrorKind, Result};

/// The fields read here.
pub(super) const FIELDS: &[&str] = &["timestep_spacing", "steps_offset"];

/// How timesteps are spread over those of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimestepSpacing {
    /// Both ends of the range are visited.
    Linspace,
    /// Multiples of a whole stride counted from 0, plus `steps_offset`.
    Leading,
    /// Multiples of a stride counted from the end.
    Trailing,
}

impl Choice for TimestepSpacing {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("linspace", TimestepSpacing::Linspace),
        ("leading", TimestepSpacing::Leading),
        ("trailing", TimestepSpacing::Trailing),
    ];
}

/// What decides the timesteps besides their number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spacing {
    pub(super) spacing: TimestepSpacing,
    pub(super) steps_offset: u32,
    pub(super) num_train_timesteps: u32,
    /// Whether the lowest timestep is left out: DPM-Solver divides the range into one more part and stops before its
    /// end (`linspace` and `leading` only).
    pub(super) without_lowest: bool,
}

impl Spacing {
    /// Reads `timestep_spacing` (with the class' `default`) and `steps_offset`, for `num_train_timesteps` of at least 1.
    pub(super) fn read(fields: &Fields, default: TimestepSpacing, num_train_timesteps: usize) -> Result<Self> {
        Ok(Spacing {
            spacing: fields.choice("timestep_spacing", default)?,
            steps_offset: fields.count("steps_offset", 0)?,
            num_train_timesteps: u32::try_from(num_train_timesteps).unwrap_or(u32::MAX),
            without_lowest: false,
        })
    }

    /// Returns `n` timesteps, strictly falling, in [0, `num_train_timesteps`). Those of `linspace` may have fractions.
    ///
    /// Unlike diffusers 0.42.1: `trailing` always gives `n` timesteps (there, float steps of `np.arange` give one more,
    /// -1, for 62 of n = 1…1000, the first being 61); `leading` takes back as much of `steps_offset` as would lead out of
    /// the range (there, n = 1000 with offset 1 asks for timestep 1000). As there, a single step of `linspace` is timestep
    /// 0, the least noise (but the last one for DPM-Solver); `trailing` is made for very few steps.
    ///
    /// # Errors
    /// `num_inference_steps` (usage) when `n` is 0 or more than the spacing has different timesteps for.
    pub(super) fn timesteps(&self, n: u32) -> Result<Vec<f64>> {
        self.check(n)?;
        let parts = if self.without_lowest { n + 1 } else { n };
        let rising = match self.spacing {
            TimestepSpacing::Linspace => linspace(f64::from(self.num_train_timesteps - 1), parts),
            TimestepSpacing::Leading => self.leading(parts),
            TimestepSpacing::Trailing => self.trailing(n),
        };
        Ok(rising.into_iter().rev().take(n as usize).collect())
    }

    /// Refuses a number of steps that would visit a timestep twice, or none.
    ///
    /// # Errors
    /// `num_inference_steps` (usage).
    pub(super) fn check(&self, n: u32) -> Result<()> {
        let without_lowest = self.without_lowest && self.spacing != TimestepSpacing::Trailing;
        let most = self.num_train_timesteps - u32::from(without_lowest);
        if (1..=most).contains(&n) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Usage, "num_inference_steps", format!("cannot make `{n}` steps"))
            .hint(format!("this scheduler makes 1 to {most} steps of the {} of training", self.num_train_timesteps)))
    }

    /// Rising multiples of the whole stride; see [`Spacing::timesteps`] for the offset.
    fn leading(&self, parts: u32) -> Vec<f64> {
        let stride = self.num_train_timesteps / parts;
        let room = self.num_train_timesteps - 1 - (parts - 1) * stride;
        let offset = self.steps_offset.min(room);
        (0..parts).map(|i| f64::from(i * stride + offset)).collect()
    }

    /// Rising; computed from the end as `np.arange(num_train_timesteps, 0, -stride)` does, whose second element decides
    /// the stride of the others.
    fn trailing(&self, n: u32) -> Vec<f64> {
        let end = f64::from(self.num_train_timesteps);
        let stride = (end - end / f64::from(n)) - end;
        (0..n).rev().map(|i| (end + f64::from(i) * stride).round_ties_even() - 1.0).collect()
    }
}

/// `np.linspace(0, last, count)`: `count` numbers, rising; one number is the start.
fn linspace(last: f64, count: u32) -> Vec<f64> {
    if count == 1 {
        return vec![0.0];
    }
    let step = last / f64::from(count - 1);
    (0..count).map(|i| if i == count - 1 { last } else { f64::from(i) * step }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spacing(spacing: TimestepSpacing, steps_offset: u32) -> Spacing {
        Spacing { spacing, steps_offset, num_train_timesteps: 1000, without_lowest: false }
    }

    #[test]
    fn trailing_gives_n_timesteps_where_the_reference_gives_one_more() {
        let trailing = spacing(TimestepSpacing::Trailing, 0);
        let timesteps = trailing.timesteps(61).expect("61 of 1000");
        assert_eq!(timesteps.len(), 61);
        assert_eq!((timesteps[0], timesteps[60]), (999.0, 15.0));
        assert_eq!(trailing.timesteps(1).expect("1 of 1000"), [999.0]);
        assert_eq!(trailing.timesteps(4).expect("4 of 1000"), [999.0, 749.0, 499.0, 249.0]);
    }

    #[test]
    fn leading_stays_inside_the_range() {
        let leading = spacing(TimestepSpacing::Leading, 1);
        assert_eq!(leading.timesteps(4).expect("4 of 1000"), [751.0, 501.0, 251.0, 1.0]);
        let all = leading.timesteps(1000).expect("all");
        assert_eq!((all[0], all[999]), (999.0, 0.0));
    }

    #[test]
    fn too_many_and_too_few_steps_are_errors_with_a_range() {
        for n in [0, 1001, u32::MAX] {
            for kind in [TimestepSpacing::Linspace, TimestepSpacing::Leading, TimestepSpacing::Trailing] {
                let error = spacing(kind, 0).timesteps(n).expect_err("impossible");
                assert_eq!(error.code(), "num_inference_steps");
            }
        }
        let dpm = Spacing { without_lowest: true, ..spacing(TimestepSpacing::Linspace, 0) };
        assert_eq!(dpm.timesteps(999).expect("all but 0").last(), Some(&1.0));
        let error = dpm.timesteps(1000).expect_err("one too many");
        assert_eq!(error.how_to_fix(), Some("this scheduler makes 1 to 999 steps of the 1000 of training"));
    }

    proptest::proptest! {
        #[test]
        fn any_spacing_gives_n_falling_timesteps_in_range(
            n in 1u32..=1000, train in 1u32..=1100, offset in 0u32..20, kind in 0usize..3, without_lowest: bool,
        ) {
            let (_, spacing) = TimestepSpacing::WORDS[kind];
            let spacing = Spacing { spacing, steps_offset: offset, num_train_timesteps: train, without_lowest };
            match spacing.timesteps(n) {
                Ok(timesteps) => {
                    proptest::prop_assert_eq!(timesteps.len(), n as usize);
                    proptest::prop_assert!(timesteps.windows(2).all(|pair| pair[1] < pair[0]));
                    proptest::prop_assert!(timesteps.iter().all(|t| (0.0..f64::from(train)).contains(t)));
                }
                Err(error) => {
                    proptest::prop_assert!(n > train || (without_lowest && n == train), "{error}");
                }
            }
        }
    }
}
