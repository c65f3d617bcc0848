//! The contact sheet of a run: one PNG with captioned thumbnails.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::path::PathBuf;

use super::catalogue::{Catalogue, Image};
use super::options::RunOptions;
use crate::error::Result;
use crate::output::contact_sheet::{self, SheetItem};
use crate::output::durable::{Durable, WholeFile};
use crate::output::packed::read_pictures;
use crate::output::{RunFolder, png};
use crate::scheduler::a1111_name;

/// Pictures on a sheet, at most.
const PICTURES: usize = 100;

/// Writes the sheet if one was asked for and it is missing or `changed`; returns where it is.
///
/// # Errors
/// The sheet cannot be written.
pub fn write(
    options: &RunOptions,
    catalogue: &Catalogue,
    folder: &RunFolder,
    changed: bool,
) -> Result<Option<PathBuf>> {
    let Some(path) = &options.contact_sheet else { return Ok(None) };
    let there = catalogue.images().iter().filter(|image| image.made.is_some());
    let pictures: Vec<&Image> = there.take(PICTURES).collect();
    if pictures.is_empty() || (!changed && path.exists()) {
        return Ok(path.exists().then(|| path.clone()));
    }
    let packed = unpack(options, catalogue, folder, &pictures);
    let thumbnail = |image: &&Image| thumbnail(folder, &catalogue.path(image), image, &packed);
    // What is not there, or waits for its shard, has no place on the sheet.
    let thumbnails: Vec<SheetItem> = pictures.iter().filter_map(thumbnail).collect();
    if thumbnails.is_empty() {
        return Ok(None);
    }
    let sheet = png::encode_plain(&contact_sheet::render(&thumbnails, columns(thumbnails.len())))?;
    let durable = Durable::default();
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        durable.make_folder(parent)?;
    }
    durable.commit(&[WholeFile { path: path.clone(), bytes: &sheet }])?;
    Ok(Some(path.clone()))
}

/// Returns the bytes of the pictures that are inside of shards' files, by the paths that the catalogue gives them.
fn unpack(
    options: &RunOptions,
    catalogue: &Catalogue,
    run_folder: &RunFolder,
    pictures: &[&Image],
) -> HashMap<String, Vec<u8>> {
    let mut found = HashMap::new();
    if !options.format.is_packed() {
        return found;
    }
    let shards: BTreeSet<u32> = pictures.iter().map(|image| image.shard).collect();
    for shard in shards {
        let path = run_folder.path().join(catalogue.layout().shard_path(shard, catalogue.shard_count()));
        let Ok(path) = run_folder.durable().recall(&path) else { continue };
        let folder = catalogue.layout().image_path(shard, "").rsplit_once('/').map(|(folder, _)| folder.to_string());
        // A shard that cannot be read has no pictures to show; the run has said so.
        let _ = read_pictures(options.format, &path, |name, bytes| {
            found.insert(format!("{}/{name}", folder.as_deref().unwrap_or_default()), bytes);
        });
    }
    found
}

fn thumbnail(folder: &RunFolder, path: &str, image: &Image, packed: &HashMap<String, Vec<u8>>) -> Option<SheetItem> {
    let task = &image.task;
    let bytes = match packed.get(path) {
        Some(bytes) => bytes.clone(),
        None => std::fs::read(folder.durable().recall(&folder.path().join(path)).ok()?).ok()?,
    };
    let image = image::load_from_memory(&bytes).ok()?.to_rgb8();
    let job = &*task.job;
    let small = settings(&job.scheduler, job.num_inference_steps, job.guidance_scale, task.seed);
    Some(SheetItem { image, caption: job.prompt.to_string(), small })
}

/// Returns the small line below a picture.
pub(super) fn settings(scheduler: &str, steps: impl Display, guidance: impl Display, seed: impl Display) -> String {
    format!("{} · {steps} steps · guidance {guidance} · seed {seed}", a1111_name(scheduler))
}

/// As many columns as make the page about as wide as it is high.
fn columns(pictures: usize) -> usize {
    ((pictures as f64).sqrt().ceil() as usize).clamp(3, 10)
}
