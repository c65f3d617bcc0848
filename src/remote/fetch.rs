//! Single files from a bucket: manifests, and the state of a run for those who only look.

use std::path::Path;

use super::Store;
use super::lease;
use super::names::{Role, role};
use super::url::BucketUrl;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::{Durable, STATE_FOLDER};

/// Copies the object that `url` names to `path`, whole or not at all.
///
/// # Errors
/// Kind `Storage`: the bucket cannot be reached. Kind `Manifest`: there is no such object.
pub fn fetch_file(url: &BucketUrl, path: &Path) -> Result<()> {
    let store = Store::open(url)?;
    download(&store, "", path)?.then_some(()).ok_or_else(|| {
        Error::new(ErrorKind::Manifest, "manifest_missing", "there is no such object")
            .at(Location::file(url.to_string()))
            .hint("give the address of one file: folders of manifests are read from disks only")
    })
}

/// Copies the state of the run at `url` into the folder `out`; returns who works there, as text.
///
/// # Errors
/// Kind `Storage`: the bucket cannot be reached.
pub fn fetch_state(url: &BucketUrl, out: &Path) -> Result<Option<String>> {
    let store = Store::open(url)?;
    let state = store.list(STATE_FOLDER)?;
    let names = state.iter().map(|object| &object.name).filter(|name| role(name) == Role::State);
    let wanted = names.filter(|name| !name.contains("/removed/"));
    wanted.into_iter().try_for_each(|name| download(&store, name, &out.join(name)).map(drop))?;
    lease::living(&store, &state)
}

/// Copies an object to `path`, whole or not at all; returns whether there is one.
///
/// # Errors
/// Kind `Storage`.
pub(super) fn download(store: &Store, name: &str, path: &Path) -> Result<bool> {
    let mut there = false;
    Durable::default().stream(path, |sink| {
        let mut take = |piece: &[u8]| sink.write_all(piece).map_err(|error| Error::storage("write", path, error));
        there = store.download(name, &mut take)?;
        Ok(())
    })?;
    Ok(there)
}
