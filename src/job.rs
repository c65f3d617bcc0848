//! What the user asked for: rows of a manifest as jobs, and the images that a job stands for.
//!
//! Leaf types that everyone may use. Names are those of diffusers, so column = flag = field.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod extra;
mod rare;

pub use extra::{Extra, Names};
pub use rare::Rare;

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
    /// Share of the evaluations before which guidance is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_start: Option<f64>,
    /// Share of the evaluations from which on it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_stop: Option<f64>,
    /// How much of a given image is made anew, 0 to 1; `None`: 0.8 for most models, 1 with a mask, as diffusers has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Last layers of the text encoder to skip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// The UNet's inner blocks are evaluated every so many evaluations only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_interval: Option<u32>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Images per row.
    pub num_images_per_prompt: u32,
}

/// A picture that a row starts from, or a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInput {
    /// The file.
    pub path: PathBuf,
    /// BLAKE3 hash of its bytes, 32 hex digits.
    pub hash: String,
    /// Width and height in pixels, as the file has them.
    pub size: (u32, u32),
}

/// Texts for a model's further text encoders; where there is none they get those of the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FurtherTexts {
    /// Prompt of the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// Prompt of the third.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_3: Option<String>,
    /// Negative prompt of the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,
    /// Negative prompt of the third.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt_3: Option<String>,
}

/// What SDXL's networks are told about a picture besides its text (Podell et al. 2023, arXiv 2307.01952, section 2.2). Sizes
/// are width and height in pixels; what is `None` has diffusers' default.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MicroConditioning {
    /// Size before cropping; by default that of the picture to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_size: Option<(u32, u32)>,
    /// Top and left of the crop; by default 0 and 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crops_coords_top_left: Option<(u32, u32)>,
    /// Size after cropping; by default that of the picture to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<(u32, u32)>,
    /// How pretty, 1 to 10; by default 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f64>,
    /// The same for the negative prompt; by default 2.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f64>,
}

/// One validated manifest row. Small, since a manifest may have a million; what few rows set is in [`Job::rare`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Job {
    /// 0-based number of the row among the data rows of all manifests of the run.
    pub row: u64,
    /// 1-based line at which the row starts in its file; 0 where the file has no lines.
    pub line: u64,
    /// The row's `id`, if the manifest gives one.
    pub id: Option<Box<str>>,
    /// Text of the picture.
    pub prompt: Box<str>,
    /// Text to steer away from; rows share it.
    pub negative_prompt: Arc<str>,
    /// The row's own seed; `None` derives one from the run seed and the key.
    pub seed: Option<u64>,
    /// Canonical name of the scheduler.
    pub scheduler: Arc<str>,
    /// Classifier-free guidance weight; 1 or less turns guidance off.
    pub guidance_scale: f64,
    /// Number of denoising steps.
    pub num_inference_steps: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Images of this row.
    pub num_images_per_prompt: u32,
    /// Lanes that each guided evaluation takes, which follows from model and guidance: 2 with classifier-free guidance, else 1.
    pub lanes: usize,
    /// What few rows set, where this one does; read it with [`Job::rare`].
    pub rare: Option<Arc<Rare>>,
    /// Pass-through columns: name and value, in the manifest's order.
    pub extra: Extra,
}

impl Job {
    /// Returns the name that the row's images are called by: its id, or its row number as 9 digits.
    pub fn key(&self) -> String {
        self.id.as_deref().map_or_else(|| format!("{:09}", self.row), str::to_string)
    }

    /// Returns whether predictions with and without the prompt are weighed against each other (diffusers:
    /// `do_classifier_free_guidance`).
    pub fn do_classifier_free_guidance(&self) -> bool {
        self.lanes > 1
    }

    /// Returns which of so many evaluations are guided; the others take one lane, that of the prompt (Kynkäänniemi et al. 2024,
    /// arXiv 2404.07724; `start` and `stop` of diffusers 0.42.1, `guiders/classifier_free_guidance.py`, `_is_cfg_enabled`).
    pub fn guided(&self, evaluations: usize) -> Range<usize> {
        let first = |share: f64| (share * evaluations as f64) as usize;
        first(self.rare().guidance_start)..first(self.rare().guidance_stop)
    }

    /// Returns how many lanes so many evaluations take together.
    pub fn lane_evaluations(&self, evaluations: u32) -> u64 {
        let guided = self.guided(evaluations as usize).len() as u64;
        u64::from(evaluations) + guided * (self.lanes as u64).saturating_sub(1)
    }

    /// Returns what few rows set, by name, as JSON; the empty text where a row sets nothing of it. Pictures are named by
    /// their hashes.
    pub fn rare_settings(&self) -> RareSettings {
        let rare = self.rare();
        let mut settings = serde_json::Map::new();
        let mut put = |name: &str, value: Value| {
            settings.insert(name.to_string(), value);
        };
        if let Some(image) = &rare.image {
            put("image", json!(image.hash));
            put("strength", json!(rare.strength));
            put("image_guidance_scale", json!(rare.image_guidance_scale));
        }
        if let Some(mask) = &rare.mask_image {
            put("mask_image", json!(mask.hash));
        }
        if rare.clip_skip > 0 {
            put("clip_skip", json!(rare.clip_skip));
        }
        if self.lanes > 1 && (rare.guidance_start, rare.guidance_stop) != (0.0, 1.0) {
            put("guidance_start", json!(rare.guidance_start));
            put("guidance_stop", json!(rare.guidance_stop));
        }
        if rare.cache_interval > 1 {
            put("cache_interval", json!(rare.cache_interval));
        }
        for (name, numbers) in [("timesteps", &rare.timesteps), ("sigmas", &rare.sigmas)] {
            if let Some(numbers) = numbers {
                put(name, json!(numbers.as_ref()));
            }
        }
        for part in [json!(rare.texts), json!(rare.micro)] {
            settings.extend(part.as_object().cloned().unwrap_or_default());
        }
        RareSettings(settings)
    }

    /// Returns the key of the `index`-th image: the job's key, with `_index` where the job has several images.
    pub fn image_key(&self, index: u32) -> String {
        if self.num_images_per_prompt > 1 { format!("{}_{index}", self.key()) } else { self.key() }
    }
}

/// Settings that few rows have, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RareSettings(serde_json::Map<String, Value>);

impl RareSettings {
    /// Returns the settings by name, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns the value of a setting.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Returns how many layers of the text encoder are skipped.
    pub fn clip_skip(&self) -> Option<u64> {
        self.get("clip_skip")?.as_u64()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for RareSettings {
    /// Writes a JSON object, or nothing where there are no settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { Ok(()) } else { write!(f, "{}", Value::Object(self.0.clone())) }
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
    /// Seed of the image's own noise: as asked for, or that of a picture that was made again because of its score.
    pub seed: u64,
}

impl ImageTask {
    /// Returns the `index`-th image of `job`. `run_seed` gives the seed where the row has none.
    pub fn new(job: Arc<Job>, index: u32, ordinal: u64, run_seed: u64) -> Self {
        let seed = match job.seed {
            Some(seed) => seed.wrapping_add(u64::from(index)),
            None => derive_seed(run_seed, &job.image_key(index)),
        };
        ImageTask { job, index, ordinal, seed }
    }

    /// Returns the same image for its `retry`-th picture beyond the first, which has another seed; 0 gives the image itself.
    pub fn retried(&self, retry: u32) -> Self {
        let seed = if retry == 0 { self.seed } else { retry_seed(self.seed, retry) };
        ImageTask { seed, ..self.clone() }
    }

    /// Returns the unique name of the image.
    pub fn key(&self) -> String {
        self.job.image_key(self.index)
    }

    /// Returns a hash over everything of the row that changes its pixels, and nothing else. A seed that is derived from the
    /// key does not count, so that a row without id and seed is known again where it has merely moved.
    pub fn row_hash(&self) -> [u8; 16] {
        let job = &*self.job;
        // As asked for: a picture that was made again has another.
        let seed = job.seed.map(|seed| seed.wrapping_add(u64::from(self.index)));
        let parts = (
            (&*job.prompt, &*job.negative_prompt, seed, &*job.scheduler, job.num_inference_steps),
            (job.guidance_scale, job.rare().guidance_rescale, job.rare().eta, job.width, job.height),
        );
        let mut text = serde_json::to_string(&parts).expect("a tuple of strings and finite numbers is valid JSON");
        text += &job.rare_settings().to_string();
        let hash = blake3::hash(text.as_bytes());
        hash.as_bytes()[..16].try_into().expect("16 bytes of a 32-byte hash")
    }
}

/// Returns the seed of an image whose row has none: a 32-bit number from the run seed and the image's key, so that
/// it never depends on the position in a batch, and so that tools with 32-bit seeds can repeat it.
fn derive_seed(run_seed: u64, key: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"nightshift seed v1");
    hasher.update(&run_seed.to_le_bytes());
    hasher.update(key.as_bytes());
    first_32_bits(&hasher)
}

/// Returns the seed of an image's `retry`-th picture beyond the first, from the seed of the first alone: images that are equal
/// stay equal.
fn retry_seed(seed: u64, retry: u32) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"nightshift retry v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&retry.to_le_bytes());
    first_32_bits(&hasher)
}

fn first_32_bits(hasher: &blake3::Hasher) -> u64 {
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
            prompt: "a red heart".into(),
            seed: Some(5),
            scheduler: "euler".into(),
            num_inference_steps: 20,
            guidance_scale: 4.0,
            width: 64,
            height: 64,
            num_images_per_prompt: 1,
            lanes: 2,
            ..Job::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::job;
    use super::*;

    #[test]
    fn a_plain_row_is_small() {
        assert!(size_of::<Job>() <= 160, "a million rows must fit into memory: {} bytes", size_of::<Job>());
        assert_eq!(job(7).rare, None);
    }

    #[test]
    fn rare_settings_are_shared_or_dropped() {
        let mut known = None;
        let [mut plain, mut one, mut other] = [job(0), job(1), job(2)];
        plain.rare_mut().eta = 0.0;
        plain.share_rare(&mut known);
        assert_eq!((&plain.rare, &known), (&None, &None));
        for job in [&mut one, &mut other] {
            job.rare_mut().eta = 0.5;
            job.share_rare(&mut known);
        }
        assert!(Arc::ptr_eq(one.rare.as_ref().expect("kept"), other.rare.as_ref().expect("kept")));
        assert_eq!((one.rare().eta, job(0).rare().strength), (0.5, 1.0));
    }

    #[test]
    fn guidance_may_be_on_for_some_of_the_evaluations() {
        let mut job = job(7);
        assert_eq!((job.guided(20), job.lane_evaluations(20)), (0..20, 40));
        (job.rare_mut().guidance_start, job.rare_mut().guidance_stop) = (0.1, 0.55);
        assert_eq!((job.guided(20), job.lane_evaluations(20)), (2..11, 29));
        assert_eq!((job.guided(1), job.lane_evaluations(1)), (0..0, 1));
        assert_eq!(job.rare_settings().to_string(), r#"{"guidance_start":0.1,"guidance_stop":0.55}"#);
        job.lanes = 1;
        assert_eq!((job.lane_evaluations(20), job.rare_settings().to_string()), (20, String::new()));
    }

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
    fn a_retry_is_the_same_image_with_another_seed() {
        let task = ImageTask::new(Arc::new(job(7)), 0, 0, 0);
        let [first, second] = [1, 2].map(|retry| task.retried(retry));
        assert_eq!((task.retried(0), first.row_hash(), first.key()), (task.clone(), task.row_hash(), task.key()));
        assert!(first.seed != task.seed && first.seed != second.seed && first.seed <= u64::from(u32::MAX));
        assert_eq!(task.retried(1).seed, first.seed);
    }

    #[test]
    fn the_row_hash_sees_what_changes_pixels_only() {
        let mut moved = job(7);
        moved.seed = None;
        let derived = |row: u64| ImageTask::new(Arc::new(Job { row, ..moved.clone() }), 0, row, 0);
        assert_eq!(derived(7).row_hash(), derived(8).row_hash(), "a derived seed does not count");
        assert_ne!(derived(7).seed, derived(8).seed);
        let base = ImageTask::new(Arc::new(job(7)), 0, 0, 0).row_hash();
        let mut renamed = job(7);
        renamed.id = Some("other".into());
        renamed.row = 99;
        renamed.extra = [("label", "x")].into();
        assert_eq!(base, ImageTask::new(Arc::new(renamed), 0, 3, 0).row_hash());
        let mut changed = job(7);
        changed.guidance_scale = 4.5;
        assert_ne!(base, ImageTask::new(Arc::new(changed), 0, 0, 0).row_hash());
        let mut skipped = job(7);
        skipped.rare_mut().clip_skip = 1;
        assert_eq!(skipped.rare_settings().to_string(), r#"{"clip_skip":1}"#);
        assert_ne!(base, ImageTask::new(Arc::new(skipped), 0, 0, 0).row_hash());
    }
}
