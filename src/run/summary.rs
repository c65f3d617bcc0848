//! What a run prints when it is over. Its numbers add up: images = made + skipped + failed + left.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::clock::NetworkTimes;
use super::watch::GpuSummary;
use crate::remote::Uploads;
use crate::score::{ClipScore, Scored};

/// The result of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Output folder.
    pub out: PathBuf,
    /// Data rows in the manifests.
    pub rows: u64,
    /// Images that the good rows ask for.
    pub images: u64,
    /// Images made by this run.
    pub made: u64,
    /// Of which equal to others in all that changes pixels, and copied.
    pub copied: u64,
    /// Images that were there already.
    pub skipped: u64,
    /// Images that could not be made.
    pub failed: u64,
    /// What failed by the names of the errors: images, and rows that were bad to begin with.
    pub reasons: BTreeMap<String, u64>,
    /// Images that are still to be made.
    pub left: u64,
    /// Pictures that look like none (of one colour), kept and marked in the metadata.
    pub suspect: u64,
    /// What the scorer says of all pictures that are there, where there is one.
    pub scores: Option<Scores>,
    /// Rows with at least one failed image, and rows that were bad to begin with.
    pub failed_rows: u64,
    /// Images of former runs whose rows are no longer in the manifest.
    pub removed: u64,
    /// Share of the lanes that were used, 0 to 1.
    pub lane_occupancy: f64,
    /// UNet calls.
    pub unet_calls: u64,
    /// Wall time in seconds, all included.
    pub seconds: f64,
    /// Seconds by stage. Stages overlap: their sum is not the wall time.
    pub stages: Stages,
    /// Where the failed rows are listed, if there are any.
    pub failed_csv: Option<PathBuf>,
    /// Where the contact sheet is, if one was asked for.
    pub contact_sheet: Option<PathBuf>,
    /// Where the answers to a batch of OpenAI's API are, if the manifest is one.
    pub answers: Option<PathBuf>,
    /// What was uploaded, where the output is in a bucket.
    pub uploads: Option<Uploads>,
    /// What the GPUs did, where the driver tells.
    pub gpus: Vec<GpuSummary>,
    /// What the process exits with.
    pub exit_code: u8,
}

/// What a scorer says of all pictures together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The mean score.
    pub mean: f64,
    /// The least.
    pub min: ClipScore,
    /// Pictures below what was asked for: each the best of its image's tries.
    pub low: u64,
    /// Images whose first picture was not good enough.
    pub retried: u64,
    /// Pictures that this run made again, with other seeds.
    pub retries: u64,
}

impl Scores {
    /// Returns what can be said of `scored`; `None` where nothing is.
    pub fn of(scored: impl Iterator<Item = Scored>, retries: u64) -> Option<Scores> {
        let all: Vec<Scored> = scored.collect();
        let min = all.iter().map(|scored| scored.clip_score).min()?;
        let count = |what: fn(&&Scored) -> bool| all.iter().filter(what).count() as u64;
        let mean = all.iter().map(|scored| scored.clip_score.value()).sum::<f64>() / all.len() as f64;
        let (low, retried) = (count(|scored| scored.is_low), count(|scored| scored.retries > 0));
        Some(Scores { mean, min, low, retried, retries })
    }
}

/// Seconds by stage.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Stages {
    /// Reading manifest, model configs, output folder and journal.
    pub prepare: f64,
    /// Reading the model's files for their hash, by which a run knows its model.
    pub hash: f64,
    /// Loading the networks.
    pub load: f64,
    /// Making the images, with the UNet, the VAE and the writer side by side.
    pub generate: f64,
    /// Of which encoding and writing, on a thread of its own.
    pub write: f64,
    /// Of which in text encoders.
    pub text_encoder: f64,
    /// Of which in the UNet.
    pub unet: f64,
    /// Of which in the VAE's decoder, beside the UNet.
    pub vae_decoder: f64,
    /// Of which in the scorer, beside the UNet.
    pub scorer: f64,
    /// Of which in no network: schedulers, guidance, copies, and waiting for the writer.
    pub outside: f64,
    /// Metadata, failed rows, contact sheet.
    pub finish: f64,
}

impl Stages {
    /// Takes over what the networks took.
    pub fn networks(&mut self, times: &NetworkTimes) {
        self.text_encoder = times.text_encoder.as_secs_f64();
        self.unet = times.unet.as_secs_f64();
        self.vae_decoder = times.vae_decoder.as_secs_f64();
        self.scorer = times.scorer.as_secs_f64();
        self.outside = (self.generate - times.any.as_secs_f64()).max(0.0);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.made + self.failed + self.left == 0 && self.failed_rows == 0 {
            write!(f, "all {} images are done: nothing to make", self.images)?;
        } else {
            write!(f, "{} images: {} made, {} there already", self.images, self.made, self.skipped)?;
            write!(f, ", {} failed, {} left", self.failed, self.left)?;
        }
        let rate = if self.stages.generate > 0.0 { self.made as f64 / self.stages.generate } else { 0.0 };
        write!(f, "; {:.1} s", self.seconds)?;
        if self.made > 0 {
            write!(f, " ({rate:.1} images/s, lanes {:.0}% busy)", 100.0 * self.lane_occupancy)?;
        }
        write!(f, "\noutput         {}", self.out.display())?;
        if let Some(Uploads { files, bytes, failures, waiting }) = &self.uploads {
            write!(f, "\nuploaded       {files} files, {:.1} MiB", *bytes as f64 / f64::from(1 << 20))?;
            write!(f, " ({failures} tries failed, {waiting} files left)")?;
        }
        if let Some(sheet) = &self.contact_sheet {
            write!(f, "\ncontact sheet  {}", sheet.display())?;
        }
        if let Some(answers) = &self.answers {
            write!(f, "\nanswers        {}", answers.display())?;
        }
        if let Some(failed) = &self.failed_csv {
            write!(f, "\nfailed rows    {} ({})", self.failed_rows, failed.display())?;
            let reasons: Vec<String> = self.reasons.iter().map(|(code, count)| format!("{code} {count}")).collect();
            write!(f, "\nreasons        {}", reasons.join(", "))?;
        }
        if self.made > 0 {
            let Stages { prepare, hash, load, generate, write: writing, finish, .. } = self.stages;
            write!(f, "\ntime           {prepare:.1} s prepare, {:.1} s load, {generate:.1} s make", hash + load)?;
            write!(f, " (meanwhile {writing:.1} s write), {finish:.1} s finish")?;
            let Stages { text_encoder, unet, vae_decoder, scorer, outside, .. } = self.stages;
            write!(f, "\nnetworks       {text_encoder:.1} s text encoder, {unet:.1} s UNet, {vae_decoder:.1} s VAE")?;
            if scorer > 0.0 {
                write!(f, ", {scorer:.1} s scorer")?;
            }
            write!(f, "; {outside:.1} s ({:.1} %) outside", 100.0 * outside / generate.max(1e-9))?;
        }
        if self.copied > 0 {
            write!(f, "\ncopied         {} images that equal others in all that changes pixels", self.copied)?;
        }
        for gpu in &self.gpus {
            write!(f, "\ngpu            {gpu}")?;
        }
        if let Some(Scores { mean, min, retried, retries, .. }) = &self.scores {
            write!(f, "\nscores         clip_score {mean:.2} on average, {min} at least")?;
            if retried + retries > 0 {
                write!(f, "; {retried} images were made again, {retries} pictures by this run")?;
            }
        }
        if let Some(Scores { low: low @ 1.., .. }) = &self.scores {
            write!(f, "\nto look at     {low} pictures below --min-clip-score (status `low_score` in the metadata)")?;
        }
        if self.suspect > 0 {
            write!(f, "\nto look at     {} pictures of one colour (status `suspect` in the metadata)", self.suspect)?;
        }
        if self.removed > 0 {
            write!(f, "\nnot in the manifest any more: {} images (kept)", self.removed)?;
        }
        if self.left > 0 {
            write!(f, "\nstopped early: run the same command again to make the {} images left", self.left)?;
        }
        Ok(())
    }
}
