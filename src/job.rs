//! What the user asked for: rows of a manifest as jobs, and the images that a job stands for.
//!
//! Leaf types that everyone may use. Names are those of diffusers, so column = flag = field.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The values that rows get where their cells are empty (a manifest cell beats a flag beats a model's default).
///
/// Part of a run's fingerprint: other defaults in the same output folder are another run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// Text to steer away from.
    pub negative_prompt: String,
    /// Run seed, from which rows without a seed derive theirs.
    pub seed: u64,
    /// Canonical name of the scheduler, as `scheduler::resolve` gives it.
    pub scheduler: String,
    /// Number of denoising steps.
    pub num_inference_steps: u32,
    /// Classifier-free guidance weight; 1 or less turns guidance off.
    pub guidance_scale: f64,
    /// Rescale factor of Lin et al. 2023 (arXiv 2305.08891, eq. 16), 0 = off.
    pub guidance_rescale: f64,
    /// Share of fresh noise per step of DDIM, 0 to 1.
    pub eta: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Images per row.
    pub num_images_per_prompt: u32,
}

/// One validated manifest row.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// 0-based number of the row among the data rows of all manifests of the run.
    pub row: u64,
    /// 1-based line at which the row starts in its file.
    pub line: u64,
    /// The row's `id`, if the manifest gives one.
    pub id: Option<String>,
    /// Text of the picture.
    pub prompt: String,
    /// Text to steer away from.
    pub negative_prompt: String,
    /// The row's own seed; `None` derives one from the run seed and the key.
    pub seed: Option<u64>,
    /// Canonical name of the scheduler.
    pub scheduler: String,
    /// Number of denoising steps.
    pub num_inference_steps: u32,
    /// Classifier-free guidance weight; 1 or less turns guidance off.
    pub guidance_scale: f64,
    /// Rescale factor of the guided prediction, 0 = off.
    pub guidance_rescale: f64,
    /// Share of fresh noise per step of DDIM, 0 to 1.
    pub eta: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Images of this row.
    pub num_images_per_prompt: u32,
    /// Pass-through columns: name and value, in the manifest's order.
    pub extra: Vec<(Arc<str>, String)>,
}

impl Job {
    /// Returns the name that the row's images are called by: its id, or its row number as 9 digits.
    pub fn key(&self) -> String {
        self.id.clone().unwrap_or_else(|| format!("{:09}", self.row))
    }

    /// Returns whether the guided prediction needs two lanes (diffusers: `do_classifier_free_guidance`).
    pub fn do_classifier_free_guidance(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// Returns the key of the `index`-th image: the job's key, with `_index` where the job has several images.
    pub fn image_key(&self, index: u32) -> String {
        if self.num_images_per_prompt > 1 { format!("{}_{index}", self.key()) } else { self.key() }
    }
}

/// One image to make: a job, which of its images, and everything that follows from that.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTask {
    /// The row that asked for it.
    pub job: Arc<Job>,
    /// Which of the job's images, from 0.
    pub index: u32,
    /// Position among all images of the run in manifest order; decides the folder of the file.
    pub ordinal: u64,
    /// Unique name of the image.
    pub key: String,
    /// Seed of the image's own noise.
    pub seed: u64,
}

impl ImageTask {
    /// Returns the `index`-th image of `job`. `run_seed` gives the seed where the row has none.
    pub fn new(job: Arc<Job>, index: u32, ordinal: u64, run_seed: u64) -> Self {
        let key = job.image_key(index);
        let seed = match job.seed {
            Some(seed) => seed.wrapping_add(u64::from(index)),
            None => derive_seed(run_seed, &key),
        };
        ImageTask { job, index, ordinal, key, seed }
    }

    /// Returns a hash (32 hex digits) over everything of the row that changes its pixels, and nothing else.
    pub fn row_hash(&self) -> String {
        let job = &*self.job;
        let parts = (
            (&job.prompt, &job.negative_prompt, self.seed, &job.scheduler, job.num_inference_steps),
            (job.guidance_scale, job.guidance_rescale, job.eta, job.width, job.height),
        );
        let text = serde_json::to_string(&parts).expect("a tuple of strings and finite numbers is valid JSON");
        blake3::hash(text.as_bytes()).to_hex()[..32].to_string()
    }

    /// Returns how many lanes each of its UNet evaluations takes: 2 while guidance is on, else 1.
    pub fn lanes(&self) -> usize {
        if self.job.do_classifier_free_guidance() { 2 } else { 1 }
    }
}

/// Returns the seed of an image whose row has none: a 32-bit number from the run seed and the image's key, so that
/// it never depends on the position in a batch, and so that tools with 32-bit seeds can repeat it.
fn derive_seed(run_seed: u64, key: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"nightshift seed v1");
    hasher.update(&run_seed.to_le_bytes());
    hasher.update(key.as_bytes());
    let bytes = hasher.finalize();
    let first: [u8; 4] = bytes.as_bytes()[..4].try_into().expect("four bytes of a 32-byte hash");
    u64::from(u32::from_le_bytes(first))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Job;

    /// Returns a plain job for tests: a red heart, seed 5, 20 steps of Euler with guidance 4 at 64×64.
    pub(crate) fn job(row: u64) -> Job {
        Job {
            row,
            line: row + 2,
            id: None,
            prompt: "a red heart".into(),
            negative_prompt: String::new(),
            seed: Some(5),
            scheduler: "euler".into(),
            num_inference_steps: 20,
            guidance_scale: 4.0,
            guidance_rescale: 0.0,
            eta: 0.0,
            width: 64,
            height: 64,
            num_images_per_prompt: 1,
            extra: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::job;
    use super::*;

    #[test]
    fn keys_are_ids_or_row_numbers() {
        let mut job = job(7);
        assert_eq!(job.image_key(0), "000000007");
        job.id = Some("cat".into());
        assert_eq!(job.image_key(0), "cat");
        job.num_images_per_prompt = 3;
        assert_eq!(job.image_key(2), "cat_2");
    }

    #[test]
    fn seeds_count_up_or_are_derived_from_the_key() {
        let mut one = job(7);
        one.num_images_per_prompt = 2;
        assert_eq!(ImageTask::new(Arc::new(one.clone()), 1, 1, 0).seed, 6);
        one.seed = None;
        let one = Arc::new(one);
        let first = ImageTask::new(one.clone(), 0, 0, 1).seed;
        assert_eq!(first, ImageTask::new(one.clone(), 0, 99, 1).seed, "not from the position");
        assert_ne!(first, ImageTask::new(one.clone(), 1, 0, 1).seed);
        assert_ne!(first, ImageTask::new(one, 0, 0, 2).seed);
    }

    #[test]
    fn the_row_hash_sees_what_changes_pixels_only() {
        let base = ImageTask::new(Arc::new(job(7)), 0, 0, 0).row_hash();
        let mut renamed = job(7);
        renamed.id = Some("other".into());
        renamed.row = 99;
        renamed.extra.push(("label".into(), "x".into()));
        assert_eq!(base, ImageTask::new(Arc::new(renamed), 0, 3, 0).row_hash());
        let mut changed = job(7);
        changed.guidance_scale = 4.5;
        assert_ne!(base, ImageTask::new(Arc::new(changed), 0, 0, 0).row_hash());
    }
}
