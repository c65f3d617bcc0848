//! Images that came out as no numbers are made once more; who fails twice has failed. Those whose picture is not good enough
//! are made again with other seeds, as often as the gate says.
//!
//! A flipped bit, or a sick neighbour in a graph that mixes its entries, does not come again; an image that is itself
//! too much for its model does.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind};
use crate::job::ImageTask;

/// What was not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoilt {
    /// What the UNet predicted, or the latents that came of it.
    Latents,
    /// What the VAE decoder made of latents that were numbers.
    Picture,
}

/// Images under way, from their start until it is known what became of them.
#[derive(Default)]
pub(super) struct Attempts<'a> {
    under_way: HashMap<u64, Attempt<'a>>,
    again: Vec<&'a ImageTask>,
}

struct Attempt<'a> {
    task: &'a ImageTask,
    /// Whether the picture under way came out as no numbers before.
    is_second: bool,
    /// How many pictures were made before it, that were not good enough.
    retry: u32,
}

impl<'a> Attempts<'a> {
    /// Notes that an image is under way for the first time.
    pub(super) fn begin(&mut self, task: &'a ImageTask) {
        self.under_way.insert(task.ordinal, Attempt { task, is_second: false, retry: 0 });
    }

    /// Notes that it is known what became of an image; returns whether that is news.
    pub(super) fn settle(&mut self, task: &ImageTask) -> bool {
        self.under_way.remove(&task.ordinal).is_some()
    }

    /// Returns the images that are not settled, in their order.
    pub(super) fn unsettled(&self) -> Vec<&'a ImageTask> {
        let mut tasks: Vec<_> = self.under_way.values().map(|attempt| attempt.task).collect();
        tasks.sort_by_key(|task| (std::cmp::Reverse(task.job.num_inference_steps), task.ordinal));
        tasks
    }

    /// Notes that an image came out as no numbers: it is made once more, or fails for good with the error returned.
    pub(super) fn spoilt(&mut self, task: &ImageTask, what: Spoilt) -> Option<Error> {
        match self.under_way.get_mut(&task.ordinal) {
            Some(attempt) if !attempt.is_second => {
                attempt.is_second = true;
                self.again.push(attempt.task);
                None
            }
            _ => Some(what.error()),
        }
    }

    /// Notes that an image is to be made again with another seed.
    pub(super) fn retry(&mut self, task: &ImageTask) {
        if let Some(attempt) = self.under_way.get_mut(&task.ordinal) {
            attempt.retry += 1;
            attempt.is_second = false;
            self.again.push(attempt.task);
        }
    }

    /// Returns whether there is a picture of this image already, although not a good one.
    pub(super) fn has_picture(&self, task: &ImageTask) -> bool {
        self.under_way.get(&task.ordinal).is_some_and(|attempt| attempt.retry > 0)
    }

    /// Returns whether any image is not settled.
    pub(super) fn any(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Returns whether an image is under way that has not yet come back.
    pub(super) fn any_under_way(&self) -> bool {
        self.under_way.len() > self.again.len()
    }

    /// Returns the size in pixels of an image that is to be made once more.
    pub(super) fn size_to_repeat(&self) -> Option<(u32, u32)> {
        self.again.last().map(|task| (task.job.width, task.job.height))
    }

    /// Takes an image of this size in pixels that is to be made once more, and how many of its pictures were not good enough.
    pub(super) fn take(&mut self, size: (u32, u32)) -> Option<(&'a ImageTask, u32)> {
        let found = self.again.iter().position(|task| (task.job.width, task.job.height) == size)?;
        let task = self.again.swap_remove(found);
        Some((task, self.under_way.get(&task.ordinal).map_or(0, |attempt| attempt.retry)))
    }
}

impl Spoilt {
    fn error(self) -> Error {
        let error = |message| Error::new(ErrorKind::Row, "not_a_number", message);
        match self {
            Spoilt::Latents => error("the latents were not numbers, twice")
                .hint("another seed or a lower guidance_scale may do; a UNet in float16 overflows where one in float32 does not"),
            Spoilt::Picture => error("the decoded picture had values that are not numbers, twice")
                .hint("VAEs in float16 overflow: put a float32 export beside it, as `vae_decoder_fp32/model.onnx`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::testing::job;

    #[test]
    fn an_image_has_two_tries() {
        let task = ImageTask::new(Arc::new(job(3)), 0, 3, 0);
        let size = (task.job.width, task.job.height);
        let mut attempts = Attempts::default();
        attempts.begin(&task);
        assert!(attempts.any_under_way());
        assert!(attempts.spoilt(&task, Spoilt::Latents).is_none());
        assert!(!attempts.any_under_way());
        assert_eq!((attempts.size_to_repeat(), attempts.take((1, 1))), (Some(size), None));
        assert_eq!(attempts.take(size), Some((&task, 0)));
        assert!(attempts.any_under_way() && attempts.size_to_repeat().is_none());
        let error = attempts.spoilt(&task, Spoilt::Picture).expect("it fails for good");
        assert_eq!((error.code(), error.kind()), ("not_a_number", ErrorKind::Row));
        assert_eq!(attempts.unsettled(), [&task]);
        assert!(attempts.settle(&task) && !attempts.settle(&task));
        assert!(!attempts.any_under_way());
    }

    #[test]
    fn a_retry_has_two_tries_of_its_own() {
        let task = ImageTask::new(Arc::new(job(3)), 0, 3, 0);
        let size = (task.job.width, task.job.height);
        let mut attempts = Attempts::default();
        attempts.begin(&task);
        assert!(attempts.spoilt(&task, Spoilt::Latents).is_none() && !attempts.has_picture(&task));
        assert_eq!(attempts.take(size), Some((&task, 0)));
        attempts.retry(&task);
        assert_eq!(attempts.take(size), Some((&task, 1)));
        assert!(attempts.spoilt(&task, Spoilt::Latents).is_none() && attempts.has_picture(&task));
        assert_eq!(attempts.take(size), Some((&task, 1)), "the same seed once more");
        assert!(attempts.spoilt(&task, Spoilt::Latents).is_some());
    }
}
