//! The quality gate: pictures are scored, and the best of an image's tries is kept.
//!
//! A picture below the least score goes, and the image is made once more with another seed, until one is good enough or all
//! retries are used up; then the best is kept, the earliest of equals. All of it follows from the image's seed alone, so a run
//! that was interrupted, or a device that was lost, changes nothing.

use std::collections::HashMap;

use super::Generated;
use super::networks::Scorer;
use crate::error::{Error, ErrorKind, Result};
use crate::score::{ClipScore, Demand, Scored};

/// See the module's text.
pub struct Gate<'a> {
    scorer: &'a mut dyn Scorer,
    demand: Demand,
    /// The best picture so far of each image that is being made once more.
    best: HashMap<u64, Generated>,
}

/// What is to be done about a picture.
pub(super) enum Judged {
    /// It is kept, or a better one of the same image.
    Kept(Generated),
    /// The image is to be made once more, with another seed.
    Again,
}

impl<'a> Gate<'a> {
    /// Returns a gate that lets pictures pass that are good enough for `scorer`.
    pub fn new(scorer: &'a mut dyn Scorer, demand: Demand) -> Self {
        Gate { scorer, demand, best: HashMap::new() }
    }

    /// Scores a picture, and says what is to be done about it.
    ///
    /// # Errors
    /// The scorer fails.
    pub(super) fn judge(&mut self, picture: Generated) -> Result<Judged> {
        let clip_score = self.score(&picture)?;
        let former = self.best.remove(&picture.task.ordinal);
        let tries = former.as_ref().and_then(|former| former.scored).map_or(0, |scored| scored.retries + 1);
        let is_low = |score| self.demand.min.is_some_and(|min| score < min);
        let is_best = former.as_ref().and_then(|former| former.scored).is_none_or(|best| clip_score > best.clip_score);
        let mut best = match former {
            Some(former) if !is_best => former,
            _ => {
                Generated { scored: Some(Scored { clip_score, retries: tries, is_low: is_low(clip_score) }), ..picture }
            }
        };
        if let Some(scored) = &mut best.scored {
            scored.retries = tries;
            if scored.is_low && tries < self.demand.retries {
                self.best.insert(best.task.ordinal, best);
                return Ok(Judged::Again);
            }
        }
        Ok(Judged::Kept(best))
    }

    /// Returns the best picture so far of an image of which no other can be made.
    pub(super) fn give_up(&mut self, ordinal: u64) -> Option<Generated> {
        self.best.remove(&ordinal)
    }

    fn score(&mut self, picture: &Generated) -> Result<ClipScore> {
        let cosine = self.scorer.cosine(&picture.image, &picture.task.job.prompt).map_err(of_row)?;
        ClipScore::of_cosine(cosine).ok_or_else(|| of_row(not_a_number()))
    }
}

fn not_a_number() -> Error {
    Error::new(ErrorKind::Row, "scorer_failed", "the embeddings of picture or text are not numbers")
}

/// Returns an error of the scorer as that of one picture; a device that is gone is no picture's fault.
fn of_row(error: Error) -> Error {
    if error.kind() == ErrorKind::GpuLost {
        return error;
    }
    Error::new(ErrorKind::Row, "scorer_failed", format!("the picture could not be scored: {error}"))
        .source(error)
        .hint("leave out `--scorer` to keep pictures without a score, in another --out")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use image::RgbImage;

    use super::*;
    use crate::job::ImageTask;
    use crate::job::testing::job;

    /// Takes the red of a picture's first pixel, in hundredths, for its cosine; 255 fails.
    struct Red;

    impl Scorer for Red {
        fn cosine(&mut self, image: &RgbImage, _: &str) -> Result<f64> {
            match image.get_pixel(0, 0)[0] {
                254 => Ok(f64::NAN),
                255 => Err(Error::new(ErrorKind::Model, "graph_failed", "a double")),
                red => Ok(f64::from(red) / 100.0),
            }
        }
    }

    fn picture(ordinal: u64, retry: u32, red: u8) -> Generated {
        let task = ImageTask::new(Arc::new(job(ordinal)), 0, ordinal, 0).retried(retry);
        Generated::new(task, RgbImage::from_pixel(8, 8, image::Rgb([red, 0, 0])))
    }

    fn demand(min: &str, retries: u32) -> Demand {
        Demand { min: Some(min.parse().expect("a score")), retries }
    }

    fn kept(judged: Result<Judged>) -> Option<(u64, f64, u32, bool)> {
        match judged.expect("the scorer works") {
            Judged::Again => None,
            Judged::Kept(Generated { task, scored, .. }) => {
                let Scored { clip_score, retries, is_low } = scored.expect("it was scored");
                Some((task.seed, clip_score.value(), retries, is_low))
            }
        }
    }

    fn seed(retry: u32) -> u64 {
        picture(0, retry, 0).task.seed
    }

    #[test]
    fn without_a_least_score_every_picture_passes() {
        let mut red = Red;
        let mut gate = Gate::new(&mut red, Demand { min: None, retries: 5 });
        assert_eq!(kept(gate.judge(picture(0, 0, 3))), Some((5, 3.0, 0, false)));
    }

    #[test]
    fn the_first_picture_that_is_good_enough_is_kept() {
        let mut red = Red;
        let mut gate = Gate::new(&mut red, demand("30", 3));
        assert_eq!(kept(gate.judge(picture(0, 0, 29))), None);
        assert_eq!(kept(gate.judge(picture(1, 0, 30))), Some((5, 30.0, 0, false)), "another image, between");
        assert_eq!(kept(gate.judge(picture(0, 1, 28))), None);
        assert_eq!(kept(gate.judge(picture(0, 2, 31))), Some((seed(2), 31.0, 2, false)));
        assert!(gate.best.is_empty());
    }

    #[test]
    fn the_best_is_kept_where_none_is_good_enough() {
        let mut red = Red;
        let mut gate = Gate::new(&mut red, demand("50", 3));
        for (retry, red) in [(0, 10), (1, 40), (2, 40)] {
            assert_eq!(kept(gate.judge(picture(0, retry, red))), None);
        }
        assert_eq!(kept(gate.judge(picture(0, 3, 20))), Some((seed(1), 40.0, 3, true)), "the earliest of equals");
        let mut none = Gate::new(&mut red, demand("50", 0));
        assert_eq!(kept(none.judge(picture(0, 0, 20))), Some((5, 20.0, 0, true)));
    }

    #[test]
    fn what_cannot_be_made_again_is_the_best_so_far() {
        let mut red = Red;
        let mut gate = Gate::new(&mut red, demand("50", 3));
        assert_eq!(kept(gate.judge(picture(0, 0, 10))), None);
        assert_eq!(gate.give_up(0).map(|best| best.task.seed), Some(5));
        assert!(gate.give_up(0).is_none() && gate.give_up(1).is_none());
    }

    #[test]
    fn a_score_that_fails_is_the_pictures_failure() {
        let mut red = Red;
        let mut gate = Gate::new(&mut red, Demand::default());
        for red in [254, 255] {
            let error = gate.judge(picture(0, 0, red)).err().expect("it fails");
            assert_eq!((error.code(), error.kind()), ("scorer_failed", ErrorKind::Row));
        }
    }
}
