//! The contact sheet of a run: one PNG with captioned thumbnails.

use std::path::PathBuf;

use super::catalogue::{Catalogue, Image};
use super::options::RunOptions;
use crate::error::{Error, Result};
use crate::output::contact_sheet::{self, SheetItem};
use crate::output::durable::{Durable, WholeFile};
use crate::output::png;
use crate::scheduler;

/// Pictures on a sheet, at most.
const PICTURES: usize = 100;

/// Writes the sheet if one was asked for and it is missing or `changed`; returns where it is.
///
/// # Errors
/// A picture cannot be read, or the sheet cannot be written.
pub fn write(options: &RunOptions, catalogue: &Catalogue, changed: bool) -> Result<Option<PathBuf>> {
    let Some(path) = &options.contact_sheet else { return Ok(None) };
    let there = catalogue.images().iter().filter(|image| image.made.is_some());
    let pictures: Vec<&Image> = there.take(PICTURES).collect();
    if pictures.is_empty() || (!changed && path.exists()) {
        return Ok(path.exists().then(|| path.clone()));
    }
    let mut thumbnails = Vec::with_capacity(pictures.len());
    for image in pictures {
        thumbnails.push(thumbnail(options, catalogue, image)?);
    }
    let sheet = png::encode_plain(&contact_sheet::render(&thumbnails, columns(thumbnails.len())))?;
    let durable = Durable::default();
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        durable.make_folder(parent)?;
    }
    durable.commit(&[WholeFile { path: path.clone(), bytes: &sheet }])?;
    Ok(Some(path.clone()))
}

fn thumbnail(options: &RunOptions, catalogue: &Catalogue, image: &Image) -> Result<SheetItem> {
    let (path, task) = (options.out.join(catalogue.path(image)), &image.task);
    let image =
        image::open(&path).map_err(|error| Error::storage("read", &path, std::io::Error::other(error)))?.to_rgb8();
    let job = &*task.job;
    let settings = format!(
        "{} · {} steps · guidance {} · seed {}",
        scheduler::a1111_name(&job.scheduler),
        job.num_inference_steps,
        job.guidance_scale,
        task.seed
    );
    Ok(SheetItem { image, caption: job.prompt.to_string(), small: settings })
}

/// As many columns as make the page about as wide as it is high.
fn columns(pictures: usize) -> usize {
    ((pictures as f64).sqrt().ceil() as usize).clamp(3, 10)
}
