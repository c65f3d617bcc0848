//! `nightshift check`: what would be made, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::bucket::with_local_manifests;
use super::options::JobOptions;
use super::prepare::{Prepared, prepare};
use super::{report_bad_rows, report_truncations};
use crate::error::Result;
use crate::plan::{Plan, plan, tasks};

/// What `check` found.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Model folder's name.
    pub model: String,
    /// Data rows in the manifests.
    pub rows: u64,
    /// Rows that cannot be made.
    pub bad_rows: u64,
    /// Images that would be made.
    pub images: u64,
    /// Images per size, `64x64` and so on.
    pub sizes: BTreeMap<String, u64>,
    /// Images per scheduler.
    pub schedulers: BTreeMap<String, u64>,
    /// Fewest and most steps of an image.
    pub num_inference_steps: (u32, u32),
    /// Different texts to encode.
    pub distinct_texts: u64,
    /// UNet evaluations, one lane each.
    pub lane_evaluations: u64,
    /// Texts that are longer than the text encoder takes.
    pub truncated: u64,
}

impl CheckReport {
    /// Returns 3 if rows are bad, else 0.
    pub fn exit_code(&self) -> u8 {
        if self.bad_rows > 0 { 3 } else { 0 }
    }
}

/// Validates everything that can be validated without running a network.
///
/// # Errors
/// As [`prepare`].
pub fn check(options: &JobOptions) -> Result<CheckReport> {
    let options = &with_local_manifests(options.clone())?;
    let prepared = prepare(options)?;
    report_bad_rows(&prepared.manifest);
    let truncations = prepared.truncations(&prepared.jobs.iter().collect::<Vec<_>>());
    report_truncations(&truncations);
    let mut tasks = tasks(&prepared.jobs, prepared.defaults.seed);
    tasks.truncate(options.limit.unwrap_or(usize::MAX));
    Ok(report(&prepared, &plan(tasks), truncations.count))
}

fn report(prepared: &Prepared, plan: &Plan, truncated: u64) -> CheckReport {
    let all = || plan.buckets.iter().flat_map(|bucket| &bucket.tasks);
    let (mut sizes, mut schedulers) = (BTreeMap::new(), BTreeMap::new());
    let mut texts = std::collections::HashSet::new();
    for task in all() {
        let job = &*task.job;
        *sizes.entry(format!("{}x{}", job.width, job.height)).or_insert(0) += 1;
        *schedulers.entry(job.scheduler.to_string()).or_insert(0) += 1;
        texts.insert(&*job.prompt);
        if job.do_classifier_free_guidance() {
            texts.insert(&*job.negative_prompt);
        }
    }
    let steps = || all().map(|task| task.job.num_inference_steps);
    CheckReport {
        model: prepared.spec.name.clone(),
        rows: prepared.manifest.rows,
        bad_rows: prepared.manifest.errors.len() as u64,
        images: plan.images() as u64,
        sizes,
        schedulers,
        num_inference_steps: (steps().min().unwrap_or(0), steps().max().unwrap_or(0)),
        distinct_texts: texts.len() as u64,
        lane_evaluations: plan.lane_evaluations(),
        truncated,
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "model             {}", self.model)?;
        writeln!(f, "rows              {}, {} of them bad", self.rows, self.bad_rows)?;
        writeln!(f, "images            {}", self.images)?;
        writeln!(f, "sizes             {}", list(&self.sizes))?;
        writeln!(f, "schedulers        {}", list(&self.schedulers))?;
        writeln!(f, "steps             {} to {}", self.num_inference_steps.0, self.num_inference_steps.1)?;
        writeln!(f, "distinct texts    {}, {} too long for the text encoder", self.distinct_texts, self.truncated)?;
        write!(
            f,
            "lane evaluations  {} (UNet evaluations; an image with guidance takes two a step)",
            self.lane_evaluations
        )
    }
}
