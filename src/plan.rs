//! Jobs → work, in order: buckets of equal latent shape, longest images first. Pure.

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
}

impl Plan {
    /// Returns the number of images.
    pub fn images(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.tasks.len()).sum()
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

/// Returns the plan for `tasks`: each once, in buckets of equal size. Within a bucket the longest come first, so that no
/// long image is left running alone at the end; equal lengths keep the manifest's order.
pub fn plan(tasks: Vec<ImageTask>) -> Plan {
    let mut buckets: Vec<Bucket> = Vec::new();
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
    Plan { buckets }
}

/// Returns the lane evaluations of `tasks` together.
pub fn lane_evaluations(tasks: &[ImageTask]) -> u64 {
    tasks.iter().map(work).sum()
}

/// Returns the lane evaluations of one image. Two-evaluation samplers count once here: it only orders work.
fn work(task: &ImageTask) -> u64 {
    u64::from(task.job.num_inference_steps) * task.job.lanes as u64
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
            let mut planned: Vec<_> = plan.buckets.iter().flat_map(|b| b.tasks.clone()).collect();
            planned.sort_by_key(|task| task.ordinal);
            prop_assert_eq!(planned, all);
            for bucket in &plan.buckets {
                prop_assert!(bucket.tasks.iter().all(|t| (t.job.width, t.job.height) == (bucket.width, bucket.height)));
                prop_assert!(bucket.tasks.is_sorted_by_key(|t| std::cmp::Reverse(t.job.num_inference_steps)));
            }
        }
    }
}
