//! Completing shards: the metadata of a folder, a tar, a Parquet file, each made of the pictures that are there.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::catalogue::{Catalogue, Image};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::journal::{Blake3, Digest, Done, Journal, Record, Sealed, SpoolPlace, State};
use crate::output::layout::Format;
use crate::output::metadata::MetadataRow;
use crate::output::packed::read_pictures;
use crate::output::spool::{self, Spool};
use crate::output::{Provenance, RunFolder, metadata, parquet_shard, webdataset};

/// What completing shards takes.
pub struct Sealer<'a> {
    /// Where they go.
    pub folder: &'a RunFolder,
    /// What is the same for all pictures.
    pub provenance: &'a Provenance,
    /// Pass-through columns of the run.
    pub columns: &'a [Arc<str>],
    /// What is done.
    pub journal: &'a Mutex<Journal>,
    /// What the shards' files hold, as far as there are any.
    pub sealed: HashMap<u32, Sealed>,
}

/// Name of the spool file into which a shard's old file is unpacked.
fn unpacked_name(former: &Sealed) -> String {
    format!("shard-{:05}-{:.8}.unpacked", former.shard, former.contents.to_string())
}

impl Sealer<'_> {
    /// Returns whether a shard's file does not hold what it should.
    pub fn is_stale(&self, catalogue: &Catalogue, shard: u32) -> bool {
        let any = catalogue.shard(shard).any(|image| image.made.is_some());
        let Some(sealed) = self.sealed.get(&shard) else { return any };
        if !any {
            return sealed.images > 0;
        }
        let path = catalogue.layout().shard_path(shard, catalogue.shard_count());
        let there = || self.folder.durable().disk().holds(&self.folder.path().join(&path), sealed.bytes);
        sealed.file_name != path || sealed.contents != catalogue.contents(shard, self.columns) || !there()
    }

    /// Writes the file of a shard if it does not hold what it should. Pictures whose bytes are nowhere to be found are lost
    /// then: the catalogue and the journal say so, and the file is left for when they are made again.
    ///
    /// # Errors
    /// Storage fails.
    pub fn seal(&mut self, catalogue: &mut Catalogue, shard: u32) -> Result<()> {
        if !self.is_stale(catalogue, shard) {
            return Ok(());
        }
        self.folder.check()?;
        let file_name = catalogue.layout().shard_path(shard, catalogue.shard_count());
        let path = self.folder.path().join(&file_name);
        let rows = catalogue.metadata(shard);
        let written = match catalogue.layout().format {
            _ if rows.is_empty() => Some(self.remove(catalogue, shard, &path)?),
            Format::Imagefolder => Some(self.write_metadata(&path, &rows)?),
            format => self.pack(catalogue, shard, format, &path, &rows)?,
        };
        let Some((bytes, blake3)) = written else { return Ok(()) };
        let (contents, images) = (catalogue.contents(shard, self.columns), rows.len() as u64);
        let sealed = Sealed { shard, file_name, bytes, blake3: Digest(*blake3.as_bytes()), contents, images };
        self.append(&[Record::Sealed(sealed.clone())])?;
        let former = self.sealed.insert(shard, sealed);
        self.clear(catalogue, shard, former)
    }

    /// Removes the file of a shard that has no pictures. Those in it that no row asks for any more are kept.
    fn remove(&self, catalogue: &Catalogue, shard: u32, path: &Path) -> Result<(u64, blake3::Hash)> {
        if catalogue.layout().format.is_packed() {
            self.append(&Sources::find(self, catalogue, shard)?.kept(catalogue, shard))?;
        }
        self.folder.durable().remove(path)?;
        Ok((0, blake3::hash(b"")))
    }

    fn write_metadata(&self, path: &Path, rows: &[MetadataRow]) -> Result<(u64, blake3::Hash)> {
        let bytes = metadata::encode(self.provenance, self.columns, rows)?;
        self.folder
            .durable()
            .stream(path, |sink| sink.write_all(&bytes).map_err(|error| Error::storage("write", path, error)))
    }

    /// Writes a tar or Parquet file; `None` where pictures were found to be lost.
    fn pack(
        &self,
        catalogue: &mut Catalogue,
        shard: u32,
        format: Format,
        path: &Path,
        rows: &[MetadataRow],
    ) -> Result<Option<(u64, blake3::Hash)>> {
        let mut sources = Sources::find(self, catalogue, shard)?;
        let mut next = |at: usize| sources.read(at);
        let packed = self.folder.durable().stream(path, |sink| match format {
            Format::Parquet => parquet_shard::write(sink, self.provenance, self.columns, rows, &mut next),
            _ => webdataset::write(sink, self.provenance, self.columns, rows, &mut next),
        });
        match packed {
            Err(error) if error.code() == LOST => {
                let lost = sources.lost.iter().map(|(ordinal, key)| {
                    catalogue.lost(*ordinal);
                    Record::Lost { key: key.clone() }
                });
                let records: Vec<Record> = lost.collect();
                tracing::warn!("shard {shard}: {} pictures are not where they were, and are made again", records.len());
                self.append(&records)?;
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(written) => {
                self.append(&sources.kept(catalogue, shard))?;
                Ok(Some(written))
            }
        }
    }

    fn append(&self, records: &[Record]) -> Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(records)?;
        journal.sync()
    }

    /// Removes what the new file makes superfluous.
    fn clear(&self, catalogue: &mut Catalogue, shard: u32, former: Option<Sealed>) -> Result<()> {
        let durable = self.folder.durable();
        let packed = catalogue.layout().format.is_packed();
        if packed && catalogue.is_settled(shard) {
            catalogue.unspool(shard);
        }
        let Some(former) = former else { return Ok(()) };
        if packed && !catalogue.removed().iter().any(|removed| removed.shard == shard) {
            durable.remove(&self.folder.spool_folder().join(unpacked_name(&former)))?;
        }
        if former.file_name != self.sealed[&shard].file_name {
            durable.remove(&self.folder.path().join(former.file_name))?;
        }
        Ok(())
    }
}

/// Removes the Parquet files that have another name by now. A file's name says how many there are, and a crash may have come between
/// the new file and the removal of the old one: loaders would see the shard twice. Only for a worker that is alone.
///
/// # Errors
/// Storage fails.
pub fn remove_former_names(folder: &RunFolder, format: Format, state: &State) -> Result<()> {
    let (data, disk) = (folder.path().join("data"), folder.durable().disk());
    let files = disk.files(&data).map_err(|error| Error::storage("list the folder", &data, error))?;
    let shards: HashMap<u32, &Sealed> = state.all_sealed().map(|sealed| (sealed.shard, sealed)).collect();
    for path in files.iter().map(|name| format!("data/{name}")) {
        let sealed = format.shard_of_file(&path).and_then(|shard| shards.get(&shard));
        // Where the file with a record is gone, this one may hold its pictures.
        let is_former = |sealed: &&&Sealed| {
            sealed.file_name != path && disk.holds(&folder.path().join(&sealed.file_name), sealed.bytes)
        };
        if sealed.filter(is_former).is_some() {
            folder.durable().remove(&folder.path().join(&path))?;
        }
    }
    Ok(())
}

/// The code of the error that a picture is nowhere to be found.
const LOST: &str = "picture_lost";

/// Where the bytes of a shard's pictures are.
struct Sources {
    spool_folder: PathBuf,
    pictures: Vec<Source>,
    /// Pictures that no row asks for any more: the new file will not have them, but a row may ask again.
    removed: Vec<Done>,
    /// What the shard's old file held: hash → first byte in its unpacked copy.
    unpacked: HashMap<Blake3, u64>,
    unpacked_name: String,
    lost: Vec<(u64, String)>,
}

struct Source {
    ordinal: u64,
    key: String,
    bytes: u64,
    blake3: Blake3,
    spool: Option<(Arc<str>, u64)>,
}

impl Sources {
    fn find(sealer: &Sealer<'_>, catalogue: &Catalogue, shard: u32) -> Result<Sources> {
        let source = |image: &Image| {
            let made = image.made.as_ref()?;
            let key = image.task.key();
            let (bytes, blake3, spool) = (made.bytes, made.blake3, made.spool.clone());
            Some(Source { ordinal: image.task.ordinal, key, bytes, blake3, spool })
        };
        let pictures: Vec<Source> = catalogue.shard(shard).filter_map(source).collect();
        let spool_folder = sealer.folder.spool_folder();
        let former = sealer.sealed.get(&shard);
        let unpacked_name = former.map(unpacked_name).unwrap_or_default();
        // A copy of the same old file from an earlier change is written over.
        let is_packed = |spool: &Option<(Arc<str>, u64)>| {
            spool.as_ref().is_none_or(|(file, _)| **file == *unpacked_name || !spool_folder.join(&**file).is_file())
        };
        let kept = catalogue.removed().iter().filter(|removed| !removed.is_replaced);
        let removed = kept.filter(|removed| removed.shard == shard && is_packed(&removed.image.spool));
        let removed: Vec<Done> = removed.map(|removed| removed.image.to_record(&removed.key)).collect();
        let wanted = pictures.iter().filter(|source| is_packed(&source.spool)).map(|source| source.blake3);
        let wanted: HashSet<Blake3> = wanted.chain(removed.iter().map(|done| done.blake3)).collect();
        let unpacked = match former {
            Some(former) if !wanted.is_empty() => unpack(sealer, catalogue.layout().format, former, &wanted)?,
            _ => HashMap::new(),
        };
        Ok(Sources { spool_folder, pictures, removed, unpacked, unpacked_name, lost: Vec::new() })
    }

    /// Returns where the pictures are that the new file does not have. Those of rows that were edited are gone with the old file.
    fn kept(self, catalogue: &Catalogue, shard: u32) -> Vec<Record> {
        let place = |offset: &u64| SpoolPlace { file: self.unpacked_name.clone(), offset: *offset };
        let kept = self.removed.into_iter().filter_map(|done| {
            let spool = Some(self.unpacked.get(&done.blake3).map(place)?);
            Some(Record::Done(Done { spool, ..done }))
        });
        kept.chain(catalogue.replaced(shard).map(|key| Record::Lost { key })).collect()
    }

    /// Returns the bytes of the n-th picture.
    fn read(&mut self, at: usize) -> Result<Vec<u8>> {
        let found = self.bytes_of(&self.pictures[at]);
        found.ok_or_else(|| {
            // All that are lost are found at once, so that the shard is tried again once only.
            let lost = self.pictures.iter().filter(|source| self.bytes_of(source).is_none());
            self.lost = lost.map(|source| (source.ordinal, source.key.clone())).collect();
            Error::new(ErrorKind::Storage, LOST, "the picture is not where it was")
                .at(Location::file(&self.spool_folder))
        })
    }

    fn bytes_of(&self, source: &Source) -> Option<Vec<u8>> {
        let is_right = |bytes: &Vec<u8>| *blake3::hash(bytes).as_bytes() == source.blake3.0;
        let from_spool = source.spool.as_ref().and_then(|(file, offset)| {
            spool::read(&self.spool_folder.join(&**file), *offset, source.bytes).filter(is_right)
        });
        let unpacked = || {
            let offset = self.unpacked.get(&source.blake3)?;
            spool::read(&self.spool_folder.join(&self.unpacked_name), *offset, source.bytes).filter(is_right)
        };
        from_spool.or_else(unpacked)
    }
}

/// Copies the `wanted` pictures of a shard's old file to the spool, and returns where they are there.
fn unpack(
    sealer: &Sealer<'_>,
    format: Format,
    former: &Sealed,
    wanted: &HashSet<Blake3>,
) -> Result<HashMap<Blake3, u64>> {
    let folder = sealer.folder.spool_folder();
    let mut copy = Spool::create(sealer.folder.durable(), &folder, &unpacked_name(former))?;
    let (mut found, mut failed) = (HashMap::new(), None);
    let path = sealer.folder.durable().recall(&sealer.folder.path().join(&former.file_name))?;
    let read = read_pictures(format, &path, |_, bytes| {
        let hash = Digest(*blake3::hash(&bytes).as_bytes());
        if failed.is_none() && wanted.contains(&hash) && !found.contains_key(&hash) {
            match copy.append(&[&bytes]) {
                Ok(offsets) => drop(found.insert(hash, offsets[0])),
                Err(error) => failed = Some(error),
            }
        }
    });
    // What cannot be read counts as not there: its pictures are made again.
    if let Err(error) = read {
        tracing::warn!("{}: {error}", path.display());
    }
    copy.sync()?;
    failed.map_or(Ok(found), Err)
}
