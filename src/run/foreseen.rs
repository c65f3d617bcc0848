//! What is known of the images to come before the networks are loaded.

use std::collections::BTreeMap;

use crate::job::ImageTask;

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Foreseen {
    /// Whether any starts from a picture.
    pub(super) with_images: bool,
    /// Whether any keeps what the UNet's inner blocks gave.
    pub(super) keeps_features: bool,
    /// How many there are.
    pub(super) images: usize,
    /// Widths and heights in pixels, the one with the most work first.
    pub(super) sizes: Vec<(u32, u32)>,
}

impl Foreseen {
    /// Returns what can be said of `tasks`.
    pub(super) fn of(tasks: &[ImageTask]) -> Self {
        let mut work: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for task in tasks {
            let job = &task.job;
            let area = u64::from(job.width) * u64::from(job.height);
            *work.entry((job.width, job.height)).or_default() += area * job.lane_evaluations(job.num_inference_steps);
        }
        let mut sizes: Vec<_> = work.keys().copied().collect();
        sizes.sort_by_key(|size| std::cmp::Reverse(work[size]));
        let with_images = tasks.iter().any(|task| task.job.rare().image.is_some());
        let keeps_features = tasks.iter().any(|task| task.job.rare().cache_interval > 1);
        Foreseen { with_images, keeps_features, images: tasks.len(), sizes }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::testing::job;

    #[test]
    fn the_size_with_the_most_work_comes_first() {
        let task = |row: u64, size, steps| {
            let mut job = job(row);
            (job.width, job.height, job.num_inference_steps) = (size, size, steps);
            ImageTask::new(Arc::new(job), 0, row, 0)
        };
        let foreseen = Foreseen::of(&[task(0, 64, 10), task(1, 128, 5), task(2, 64, 9)]);
        assert_eq!(foreseen, Foreseen { images: 3, sizes: vec![(128, 128), (64, 64)], ..Foreseen::default() });
        assert_eq!(Foreseen::of(&[]), Foreseen::default());
    }
}
