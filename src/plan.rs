//! Jobs → work, in order: buckets of equal latent shape, longest images first. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::job::{ImageTask, Job};

/// All images of one size, in the order in which they enter the lane pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The images, longest first.
    pub tasks: Vec<ImageTask>,
}

/// What there is to do, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Buckets, the one with the most work first.
    pub buckets: Vec<Bucket>,
    /// Images whose pixels are those of another, by that one's ordinal: they are copied, not made.
    pub copies: HashMap<u64, Vec<ImageTask>>,
}

impl Plan {
    /// Returns the number of images, copies included.
    pub fn images(&self) -> usize {
        let made: usize = self.buckets.iter().map(|bucket| bucket.tasks.len()).sum();
        made + self.copies.values().map(Vec::len).sum::<usize>()
    }

    /// Returns the number of lane evaluations: UNet evaluations times lanes, over all images.
    pub fn lane_evaluations(&self) -> u64 {
        self.buckets.iter().flat_map(|bucket| &bucket.tasks).map(work).sum()
    }
}

/// Returns every image of `jobs` in manifest order.
pub fn tasks(jobs: &[Arc<Job>], run_seed: u64) -> Vec<ImageTask> {
    let images = jobs.iter().flat_map(|job| (0..job.num_images_per_prompt).map(move |index| (job, index)));
    images
        .enumerate()
        .map(|(ordinal, (job, index))| ImageTask::new(job.clone(), index, ordinal as u64, run_seed))
        .collect()
}

/// Returns the plan for `tasks`: each once, in buckets of equal size, but for those that would come out as one before them
/// does. Within a bucket the longest come first, so that no
/// long image is left running alone at the end; equal lengths keep the manifest's order.
pub fn plan(tasks: Vec<ImageTask>) -> Plan {
    let mut buckets: Vec<Bucket> = Vec::new();
    let (tasks, copies) = without_copies(tasks);
    for task in tasks {
        let (width, height) = (task.job.width, task.job.height);
        match buckets.iter_mut().find(|bucket| (bucket.width, bucket.height) == (width, height)) {
            Some(bucket) => bucket.tasks.push(task),
            None => buckets.push(Bucket { width, height, tasks: vec![task] }),
        }
    }
    for bucket in &mut buckets {
        bucket.tasks.sort_by_key(|task| std::cmp::Reverse(task.job.num_inference_steps));
    }
    buckets.sort_by_key(|bucket| std::cmp::Reverse(area_work(bucket)));
    Plan { buckets, copies }
}

/// Returns the images that differ, and those that equal one of them in all that changes pixels, by its ordinal.
fn without_copies(tasks: Vec<ImageTask>) -> (Vec<ImageTask>, HashMap<u64, Vec<ImageTask>>) {
    let (mut first, mut copies) = (HashMap::new(), HashMap::<u64, Vec<ImageTask>>::new());
    let mut different = Vec::with_capacity(tasks.len());
    for task in tasks {
        let original = *first.entry((task.row_hash(), task.seed)).or_insert(task.ordinal);
        match original == task.ordinal {
            true => different.push(task),
            false => copies.entry(original).or_default().push(task),
        }
    }
    (different, copies)
}

/// Returns the lane evaluations of `tasks` together.
pub fn lane_evaluations(tasks: &[ImageTask]) -> u64 {
    tasks.iter().map(work).sum()
}

/// Returns the lane evaluations of one image. Two-evaluation samplers count once here: it only orders work.
fn work(task: &ImageTask) -> u64 {
    task.job.lane_evaluations(task.job.num_inference_steps)
}

fn area_work(bucket: &Bucket) -> u64 {
    let area = u64::from(bucket.width) * u64::from(bucket.height);
    area * bucket.tasks.iter().map(work).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::testing::job;

    prop_compose! {
        fn any_jobs()(rows in prop::collection::vec((1u32..4, 1u32..50, 1u32..3), 0..60)) -> Vec<Arc<Job>> {
            rows.into_iter().enumerate().map(|(row, (size, steps, images))| {
                let mut job = job(row as u64);
                (job.width, job.num_inference_steps, job.num_images_per_prompt) = (size * 64, steps, images);
                Arc::new(job)
            }).collect()
        }
    }

    proptest! {
        #[test]
        fn each_image_is_planned_once_in_a_bucket_of_its_size(jobs in any_jobs()) {
            let all = tasks(&jobs, 0);
            let plan = plan(all.clone());
            prop_assert_eq!(plan.images(), all.len());
            let made = plan.buckets.iter().flat_map(|b| b.tasks.clone());
            let mut planned: Vec<_> = made.chain(plan.copies.values().flatten().cloned()).collect();
            planned.sort_by_key(|task| task.ordinal);
            prop_assert_eq!(planned, all);
            for bucket in &plan.buckets {
                prop_assert!(bucket.tasks.iter().all(|t| (t.job.width, t.job.height) == (bucket.width, bucket.height)));
                prop_assert!(bucket.tasks.is_sorted_by_key(|t| std::cmp::Reverse(t.job.num_inference_steps)));
            }
        }
    }

    #[test]
    fn images_that_would_come_out_equal_are_made_once() {
        let row = |row, seed| Arc::new(Job { seed, ..job(row) });
        let jobs = [row(0, Some(5)), row(1, Some(6)), row(2, Some(5)), row(3, None), row(4, None), row(5, Some(5))];
        let plan = plan(tasks(&jobs, 0));
        let made: Vec<u64> = plan.buckets.iter().flat_map(|b| &b.tasks).map(|task| task.ordinal).collect();
        assert_eq!(made, [0, 1, 3, 4], "rows without a seed have seeds of their own");
        let copies: Vec<u64> = plan.copies[&0].iter().map(|task| task.ordinal).collect();
        assert_eq!((plan.copies.len(), copies), (1, vec![2, 5]));
    }
}
