//! Where a run meets buckets: manifests that come from one, an output that goes to one, and what can only be done on disks.

use std::path::{Path, PathBuf};

use super::options::{JobOptions, RunOptions};
use super::stop::{STOPPED, Stop};
use super::summary::Summary;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::run_folder;
use crate::remote::{self, BucketUrl, Remote};

/// Returns `job` with copies on this machine in place of manifests in buckets.
///
/// # Errors
/// Kind `Usage`: an address is wrong. Kind `Storage`: a bucket cannot be reached. Kind `Manifest`: there is no such object.
pub fn with_local_manifests(job: JobOptions) -> Result<JobOptions> {
    let manifests = job.manifests.iter().map(|path| local(path)).collect::<Result<Vec<_>>>()?;
    Ok(JobOptions { manifests, ..job })
}

fn local(path: &Path) -> Result<PathBuf> {
    let Some(url) = address(path)? else { return Ok(path.to_path_buf()) };
    // The same place for the same address, so that a run knows its manifest again.
    let copy = cache_folder()?.join("manifests").join(url.folder_name()).join(url.file_name());
    remote::fetch_file(&url, &copy)?;
    tracing::info!("{url} was copied to {}", copy.display());
    Ok(copy)
}

/// Returns the place in a bucket that a path means, if it means one.
///
/// # Errors
/// Kind `Usage`: it is wrong.
pub fn address(path: &Path) -> Result<Option<BucketUrl>> {
    if !BucketUrl::is_meant(path) {
        return Ok(None);
    }
    let url = path.to_string_lossy().parse();
    let wrong = |what: String| Error::new(ErrorKind::Usage, "bad_address", what).at(Location::file(path));
    url.map(Some).map_err(wrong)
}

/// Returns the folder where a place in a bucket has its spool by default.
///
/// # Errors
/// Kind `Usage`: this user has no home.
pub fn default_spool(url: &BucketUrl) -> Result<PathBuf> {
    Ok(cache_folder()?.join("spools").join(url.folder_name()))
}

fn cache_folder() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    cache.map(|cache| cache.join("nightshift")).ok_or_else(|| {
        Error::new(ErrorKind::Usage, "no_cache", "neither XDG_CACHE_HOME nor HOME is set")
            .hint("set one of them; or give --spool, and manifests on disk")
    })
}

/// Reaches the bucket of the output, if it is in one.
///
/// # Errors
/// As [`Remote::open`]; and kind `Locked`: a living run has the spool.
pub fn open(options: &RunOptions, stop: &Stop) -> Result<Option<Remote>> {
    let Some(bucket) = &options.bucket else {
        refuse_spool(&options.out, "run")?;
        return Ok(None);
    };
    let worker = options.shard.worker();
    let living = run_folder::workers(&options.out)?.into_iter().find(|(name, _)| *name == worker);
    if let Some((_, owner)) = living {
        return Err(run_folder::locked(&options.out, &owner));
    }
    Remote::open(bucket, &options.out, &worker, Box::new(stop.asker())).map(Some)
}

/// Waits until all is uploaded, and returns how the run ended.
///
/// # Errors
/// What the run itself ended with, else as [`Remote::finish`].
pub fn finish(remote: Option<Remote>, stop: &Stop, worked: Result<Summary>) -> Result<Summary> {
    let Some(mut remote) = remote else { return worked };
    let uploads = remote.finish(&|| stop.time_left());
    let mut summary = worked?;
    let uploads = uploads?;
    if uploads.waiting > 0 {
        summary.exit_code = STOPPED;
    }
    summary.uploads = Some(uploads);
    Ok(summary)
}

/// Refuses what works on folders where `path` is an address, or a spool, most of whose files are in a bucket.
///
/// # Errors
/// Kind `Usage`: it is.
pub fn refuse_bucket(path: &Path, verb: &str) -> Result<()> {
    if address(path)?.is_none() {
        return refuse_spool(path, verb);
    }
    let message = format!("`{verb}` works on folders, not on buckets");
    Err(Error::new(ErrorKind::Usage, "no_folder", message).at(Location::file(path)).hint(format!(
        "copy it first, as with `aws s3 sync`, `gcloud storage rsync` or `azcopy`, then `nightshift {verb} DIR`: \
         the bucket has all that a folder has"
    )))
}

fn refuse_spool(path: &Path, verb: &str) -> Result<()> {
    let Some(url) = remote::spooled_for(path) else { return Ok(()) };
    let message = format!("this is the spool of {url}: most files are there, not here");
    let hint = match verb {
        "run" => format!("give --out {url}"),
        _ => format!("copy {url} to a folder, and give that"),
    };
    Err(Error::new(ErrorKind::Usage, "spool", message).at(Location::file(path)).hint(hint))
}
