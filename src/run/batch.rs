//! Answers to requests of OpenAI's Batch API: `output.jsonl` and `errors.jsonl`, one line a request. They are in
//! `OUT/.nightshift`, since loaders of a dataset would take them for a part of it.

use std::path::PathBuf;

use super::catalogue::{Catalogue, Image};
use super::prepare::Prepared;
use crate::error::Result;
use crate::output::openai::{Fault, Picture, error_line, response_line};
use crate::output::{RunFolder, STATE_FOLDER, WholeFile};

/// Writes both files where the manifest is such a batch, and returns the first; requests that are neither made nor failed yet have no line. Pictures are
/// named by their paths in the output folder, so packed layouts name the shard's file and the member.
///
/// # Errors
/// Storage fails.
pub fn write(prepared: &Prepared, catalogue: &Catalogue, folder: &RunFolder) -> Result<Option<PathBuf>> {
    let manifest = &prepared.manifest;
    if !manifest.openai_batch {
        return Ok(None);
    }
    let (mut answers, mut faults) = (String::new(), String::new());
    for images in catalogue.images().chunk_by(|a, b| a.task.job.row == b.task.job.row) {
        match answer(catalogue, images) {
            Some(Ok(line)) => answers += &(line + "\n"),
            Some(Err(line)) => faults += &(line + "\n"),
            None => {}
        }
    }
    for row in &manifest.errors {
        if let Some(error) = row.errors.first() {
            faults += &error_line(manifest.custom_id(row), Fault::Request, error.code(), &error.to_string());
            faults.push('\n');
        }
    }
    let file = |name: &str| -> PathBuf { folder.path().join(STATE_FOLDER).join(name) };
    let files = [("output.jsonl", &answers), ("errors.jsonl", &faults)];
    let (full, empty): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, text)| !text.is_empty());
    let full: Vec<_> = full.iter().map(|(name, text)| WholeFile { path: file(name), bytes: text.as_bytes() }).collect();
    folder.durable().commit(&full)?;
    empty.iter().try_for_each(|(name, _)| folder.durable().remove(&file(name)))?;
    Ok(Some(file("output.jsonl")))
}

/// Returns the line of a request whose images these are: an answer, or what went wrong.
fn answer(catalogue: &Catalogue, images: &[Image]) -> Option<Result<String, String>> {
    let id = images[0].task.job.key();
    let failure = images.iter().find_map(|image| catalogue.failures().get(&image.task.ordinal));
    if let Some(failure) = failure {
        return Some(Err(error_line(&id, Fault::Service, &failure.code, &failure.message)));
    }
    let paths: Vec<String> =
        images.iter().filter(|image| image.made.is_some()).map(|image| catalogue.path(image)).collect();
    let pictures: Vec<Picture<'_>> =
        paths.iter().map(|path| Picture { file_name: path, revised_prompt: None }).collect();
    (pictures.len() == images.len()).then(|| Ok(response_line(&id, &pictures)))
}
