//! Everything needed to make a picture again, and the two forms in which a picture carries it.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::job::{ImageTask, RareSettings};
use crate::journal::{Digest, RowHash};
use crate::score::{ClipScore, Scored};

/// What is the same for all pictures of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the model (its folder's).
    pub model: String,
    /// Hash of the model's files, hex.
    pub model_hash: String,
    /// Version of nightshift, such as `0.1.0`.
    pub version: String,
    /// Name of the noise generator, such as `torch-cpu`.
    pub noise: String,
    /// Hash of the scorer's files, hex, where pictures are scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer_hash: Option<String>,
}

/// Everything needed to make a picture again, under diffusers' names. Neither key nor row number, time or machine is in
/// it, so the same request gives the same bytes wherever it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Text of the picture.
    pub prompt: String,
    /// Text to steer away from; empty if none.
    pub negative_prompt: String,
    /// Seed of the image's own noise.
    pub seed: u64,
    /// Canonical name of the scheduler.
    pub scheduler: String,
    /// What AUTOMATIC1111 calls that scheduler, such as `DPM++ 2M Karras`.
    pub sampler: String,
    /// Number of denoising steps.
    pub num_inference_steps: u32,
    /// Classifier-free guidance weight.
    pub guidance_scale: f64,
    /// Rescale factor of the guided prediction, 0 = off.
    pub guidance_rescale: f64,
    /// Share of fresh noise per step of DDIM, 0 to 1.
    pub eta: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What few rows set besides: strength, clip_skip, sizes and so on; pictures are named by hashes.
    #[serde(flatten)]
    pub settings: RareSettings,
    /// Hash of what the row asks for ([`ImageTask::row_hash`]), by which a run knows the picture again without its journal.
    /// Pictures of versions before this field do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_hash: Option<RowHash>,
    /// Whether the picture looks like none: formats with losses do not keep that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspect: bool,
    /// How well the picture fits its prompt, where it was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_score: Option<ClipScore>,
    /// How many more pictures were made for the image, each with another seed; `seed` is this one's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Whether the score is below what was asked for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub low_score: bool,
    /// Name of the noise generator.
    pub noise: String,
    /// Name of the model.
    pub model: String,
    /// Hash of the model's files, hex.
    pub model_hash: String,
    /// Version of nightshift.
    pub version: String,
}

impl Parameters {
    /// Returns the parameters of `task`'s image. `sampler` is what AUTOMATIC1111 calls the task's scheduler.
    pub fn new(task: &ImageTask, provenance: &Provenance, sampler: impl Into<String>) -> Self {
        let job = &*task.job;
        Parameters {
            prompt: job.prompt.to_string(),
            negative_prompt: job.negative_prompt.to_string(),
            seed: task.seed,
            scheduler: job.scheduler.to_string(),
            sampler: sampler.into(),
            num_inference_steps: job.num_inference_steps,
            guidance_scale: job.guidance_scale,
            guidance_rescale: job.rare().guidance_rescale,
            eta: job.rare().eta,
            width: job.width,
            height: job.height,
            settings: job.rare_settings(),
            row_hash: Some(Digest(task.row_hash())),
            suspect: false,
            clip_score: None,
            retries: 0,
            low_score: false,
            noise: provenance.noise.clone(),
            model: provenance.model.clone(),
            model_hash: provenance.model_hash.clone(),
            version: provenance.version.clone(),
        }
    }

    /// Returns them with what a scorer says.
    pub fn with_score(self, scored: Option<Scored>) -> Self {
        let Some(Scored { clip_score, retries, is_low }) = scored else { return self };
        Parameters { clip_score: Some(clip_score), retries, low_score: is_low, ..self }
    }

    /// Returns what the scorer says of the picture.
    pub fn scored(&self) -> Option<Scored> {
        self.clip_score.map(|clip_score| Scored { clip_score, retries: self.retries, is_low: self.low_score })
    }

    /// Returns them as the JSON that pictures carry.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of strings and numbers is valid JSON")
    }

    /// Returns the text that AUTOMATIC1111's web UI writes and other tools read (`modules/processing.py`,
    /// `create_infotext`, 1.10): prompt, negative prompt, one line of settings.
    pub fn a1111(&self) -> String {
        let mut text = format!("{}\n", self.prompt);
        if !self.negative_prompt.is_empty() {
            let _ = writeln!(text, "Negative prompt: {}", self.negative_prompt);
        }
        let short_hash = self.model_hash.get(..10).unwrap_or(&self.model_hash);
        let mut settings = vec![
            ("Steps", self.num_inference_steps.to_string()),
            ("Sampler", self.sampler.clone()),
            ("CFG scale", self.guidance_scale.to_string()),
            ("Seed", self.seed.to_string()),
            ("Size", format!("{}x{}", self.width, self.height)),
            ("Model hash", short_hash.to_string()),
            ("Model", self.model.clone()),
        ];
        if self.eta != 0.0 {
            settings.push(("Eta DDIM", self.eta.to_string()));
        }
        if self.guidance_rescale != 0.0 {
            settings.push(("CFG Rescale", self.guidance_rescale.to_string()));
        }
        let rare = |name: &str| self.settings.get(name).map(|value| value.to_string());
        settings.extend(rare("strength").map(|strength| ("Denoising strength", strength)));
        // There, 1 is the last layer.
        settings.extend(self.settings.clip_skip().map(|skip| ("Clip skip", (skip + 1).to_string())));
        settings.push(("Version", format!("nightshift {}", self.version)));
        let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name}: {}", quoted(value))).collect();
        text + &settings.join(", ")
    }
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Returns `value` as AUTOMATIC1111's `quote` gives it: as a JSON string where it holds what separates settings.
fn quoted(value: &str) -> String {
    if value.contains([',', '\n', ':']) { serde_json::Value::from(value).to_string() } else { value.to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn parameters() -> Parameters {
        Parameters {
            prompt: "a small red heart".into(),
            negative_prompt: String::new(),
            seed: 1,
            scheduler: "dpmsolver_multistep_karras".into(),
            sampler: "DPM++ 2M Karras".into(),
            num_inference_steps: 20,
            guidance_scale: 4.0,
            guidance_rescale: 0.0,
            eta: 0.0,
            width: 64,
            height: 64,
            settings: RareSettings::default(),
            row_hash: Some(Digest([7; 16])),
            suspect: true,
            clip_score: "31.25".parse().ok(),
            retries: 2,
            low_score: true,
            noise: "torch-cpu".into(),
            model: "tiny-shapes".into(),
            model_hash: "0123456789abcdef".into(),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn the_a1111_text_is_what_other_tools_read() {
        let mut parameters = parameters();
        let settings = "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 4, Seed: 1, Size: 64x64, \
                        Model hash: 0123456789, Model: tiny-shapes, Version: nightshift 0.1.0";
        assert_eq!(parameters.a1111(), format!("a small red heart\n{settings}"));
        parameters.negative_prompt = "blur".into();
        assert_eq!(parameters.a1111(), format!("a small red heart\nNegative prompt: blur\n{settings}"));
    }

    #[test]
    fn the_a1111_text_quotes_what_would_end_a_setting() {
        let mut parameters = parameters();
        parameters.model = "a, b: \"c\"".into();
        parameters.eta = 0.5;
        assert!(parameters.a1111().contains(r#"Model: "a, b: \"c\"", Eta DDIM: 0.5, Version"#));
    }
}
