//! Every image of the run and what became of it, shard by shard.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::engine::KILLS_DEVICES;
use crate::job::ImageTask;
use crate::journal::{Blake3, Digest, Done, DoneImage, RowHash, SpoolPlace, State, Verdict};
use crate::output::layout::Layout;
use crate::output::metadata::MetadataRow;
use crate::score::Scored;

/// A picture that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Size of its file.
    pub bytes: u64,
    /// Hash of its file.
    pub blake3: Blake3,
    /// Whether it looks like no picture.
    pub suspect: bool,
    /// What the scorer says of it.
    pub scored: Option<Scored>,
    /// Where its bytes wait for its shard: file of the spool, first byte.
    pub spool: Option<(Arc<str>, u64)>,
}

/// An image of the run.
#[derive(Debug, Clone)]
pub struct Image {
    /// What is asked for.
    pub task: ImageTask,
    /// The shard that it belongs to.
    pub shard: u32,
    /// The picture, once it is there.
    pub made: Option<Made>,
}

/// Why an image could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable name of the error.
    pub code: String,
    /// The error's message.
    pub message: String,
}

/// An image that a former run made for a row that has another key now.
#[derive(Debug, Clone)]
pub struct Move {
    /// Position of the image in the catalogue.
    pub ordinal: usize,
    /// The key under which it was made.
    pub from: String,
    /// What the journal knows of it.
    pub image: DoneImage,
}

/// See the module's text.
pub struct Catalogue {
    layout: Layout,
    images: Vec<Image>,
    /// Ordinals of the images of each shard, in order.
    shards: BTreeMap<u32, Vec<u32>>,
    failures: HashMap<u64, Failure>,
    /// Images that are not to be tried, and those that are to be made alone.
    verdicts: HashMap<u64, Verdict>,
    /// Images that no row asks for any more.
    removed: Vec<Removed>,
    /// Keys of images whose rows were edited, as they were before: there until the new ones are, or their shard is packed anew.
    replaced: HashSet<String>,
}

/// An image of a former run that no row asks for any more.
#[derive(Debug, Clone)]
pub struct Removed {
    /// Its name.
    pub key: String,
    /// The shard that it belonged to.
    pub shard: u32,
    /// What the journal knows of it.
    pub image: DoneImage,
    /// Whether another picture has its name now: rows without id are called by their numbers. It cannot be kept then.
    pub is_replaced: bool,
}

impl Catalogue {
    /// Returns the catalogue of `tasks` (in manifest order), some of which the journal's `state` knows as done, and the images
    /// that are there under another key. An image is done if its key is, with the same row hash: a row that was edited is
    /// made again, in place of the old picture. What failed before is tried again, but for what kills the process (unless
    /// `retry_failed`).
    pub fn new(layout: Layout, tasks: Vec<ImageTask>, state: &State, retry_failed: bool) -> (Self, Vec<Move>) {
        let mut images = Vec::with_capacity(tasks.len());
        let (mut verdicts, mut failures) = (HashMap::new(), HashMap::new());
        let mut taken = HashSet::new();
        let mut unmade = Vec::new();
        for mut task in tasks {
            let key = task.key();
            let hash = Digest(task.row_hash());
            let former = state.done(&key);
            let shard = former.and_then(|former| layout.shard_in(&former.file_name));
            let shard = shard.unwrap_or_else(|| layout.shard_of(task.ordinal));
            let made = former.filter(|former| former.row_hash == hash).map(|former| {
                task.seed = former.seed;
                Made::new(former)
            });
            match &made {
                Some(_) if state.done_count() > 0 => {
                    taken.insert(key);
                }
                Some(_) => {}
                None => {
                    let verdict = judge(state, &key, hash, retry_failed);
                    if verdict != Verdict::Innocent {
                        verdicts.insert(task.ordinal, verdict);
                    }
                    if verdict == Verdict::Guilty {
                        failures.insert(task.ordinal, guilty(state, &key));
                    }
                    unmade.push(images.len());
                }
            }
            images.push(Image { task, shard, made });
        }
        let (moves, removed, replaced) = moves(&images, &unmade, state, &taken, &layout);
        for found in &moves {
            let image = &mut images[found.ordinal];
            image.made = Some(Made::new(&found.image));
            image.task.seed = found.image.seed;
            image.shard = layout.shard_in(&found.image.file_name).unwrap_or(image.shard);
            verdicts.remove(&image.task.ordinal);
            failures.remove(&image.task.ordinal);
        }
        let mut shards: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (ordinal, image) in images.iter().enumerate() {
            let ordinal = u32::try_from(ordinal).expect("fewer images than fit into memory");
            shards.entry(image.shard).or_default().push(ordinal);
        }
        (Catalogue { layout, images, shards, failures, verdicts, removed, replaced }, moves)
    }

    /// Returns the images in manifest order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Returns the layout of the output folder.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the numbers of the shards that have images, in order.
    pub fn shards(&self) -> impl Iterator<Item = u32> {
        self.shards.keys().copied()
    }

    /// Returns how many shards there are, empty ones between others included.
    pub fn shard_count(&self) -> u32 {
        self.shards.keys().next_back().map_or(0, |last| last + 1)
    }

    /// Returns the images of a shard in manifest order.
    pub fn shard(&self, shard: u32) -> impl Iterator<Item = &Image> {
        self.shards.get(&shard).into_iter().flatten().map(|&ordinal| &self.images[ordinal as usize])
    }

    /// Returns the images of a shard that are to be made now; with `alone`, those that are to be made alone.
    pub fn missing(&self, shard: u32, alone: bool) -> impl Iterator<Item = &ImageTask> {
        let wanted = if alone { Verdict::Suspect } else { Verdict::Innocent };
        let open = self.shard(shard).filter(move |image| image.made.is_none() && self.verdict(image) == wanted);
        open.filter(|image| !self.failures.contains_key(&image.task.ordinal)).map(|image| &image.task)
    }

    /// Returns whether every image of a shard is there or has failed.
    pub fn is_settled(&self, shard: u32) -> bool {
        let settled = |image: &Image| image.made.is_some() || self.failures.contains_key(&image.task.ordinal);
        self.shard(shard).all(settled)
    }

    fn verdict(&self, image: &Image) -> Verdict {
        self.verdicts.get(&image.task.ordinal).copied().unwrap_or(Verdict::Innocent)
    }

    /// Returns the path of an image relative to the output folder.
    pub fn path(&self, image: &Image) -> String {
        self.layout.image_path(image.shard, &image.task.key())
    }

    /// Returns the image that `task` asks for.
    pub fn image(&self, task: &ImageTask) -> &Image {
        &self.images[task.ordinal as usize]
    }

    /// Returns how many pictures look like none.
    pub fn suspects(&self) -> u64 {
        self.images.iter().filter(|image| image.made.as_ref().is_some_and(|made| made.suspect)).count() as u64
    }

    /// Returns what the scorer says of the pictures that are there.
    pub fn scores(&self) -> impl Iterator<Item = Scored> {
        self.images.iter().filter_map(|image| image.made.as_ref()?.scored)
    }

    /// Returns what failed, by ordinal.
    pub fn failures(&self) -> &HashMap<u64, Failure> {
        &self.failures
    }

    /// Returns the images of former runs that no row asks for any more.
    pub fn removed(&self) -> &[Removed] {
        &self.removed
    }

    /// Returns the keys of a shard's images that are there as their rows were before they were edited, and not as they are now.
    pub fn replaced(&self, shard: u32) -> impl Iterator<Item = String> {
        let unmade = self.shard(shard).filter(|image| image.made.is_none() && !self.replaced.is_empty());
        unmade.map(|image| image.task.key()).filter(|key| self.replaced.contains(key))
    }

    /// Returns the journal's record of the picture `made` for `task`, with the seed that it was made with.
    pub fn record(&self, task: &ImageTask, made: &Made) -> Done {
        Done {
            key: task.key(),
            row_hash: Digest(task.row_hash()),
            file_name: self.path(self.image(task)),
            bytes: made.bytes,
            blake3: made.blake3,
            seed: task.seed,
            suspect: made.suspect,
            scored: made.scored,
            spool: made.spool.as_ref().map(|(file, offset)| SpoolPlace { file: file.to_string(), offset: *offset }),
        }
    }

    /// Notes that the picture of `task` is there, made with the seed of `task`.
    pub fn done(&mut self, task: &ImageTask, made: Made) {
        let image = &mut self.images[task.ordinal as usize];
        (image.made, image.task.seed) = (Some(made), task.seed);
        self.failures.remove(&task.ordinal);
    }

    /// Notes that the picture of `task` could not be made.
    pub fn failed(&mut self, task: &ImageTask, failure: Failure) {
        self.failures.insert(task.ordinal, failure);
    }

    /// Notes that the picture at `ordinal` is not there after all.
    pub fn lost(&mut self, ordinal: u64) {
        self.images[ordinal as usize].made = None;
    }

    /// Forgets where the pictures of a shard waited: its file holds them.
    pub fn unspool(&mut self, shard: u32) {
        for &ordinal in self.shards.get(&shard).into_iter().flatten() {
            if let Some(made) = &mut self.images[ordinal as usize].made {
                made.spool = None;
            }
        }
    }

    /// Takes in what other workers wrote of a shard in the meantime.
    pub fn refresh(&mut self, shard: u32, state: &State) {
        for &ordinal in self.shards.get(&shard).into_iter().flatten() {
            let image = &mut self.images[ordinal as usize];
            let key = image.task.key();
            let is_ours = |hash: RowHash| hash == Digest(image.task.row_hash());
            if let Some(done) = state.done(&key).filter(|done| is_ours(done.row_hash)) {
                (image.made, image.task.seed) = (Some(Made::new(done)), done.seed);
                self.failures.remove(&image.task.ordinal);
            } else if let Some(failed) = state.failed(&key).filter(|failed| is_ours(failed.row_hash)) {
                let (code, message) = (failed.code.clone(), failed.message.clone());
                self.failures.insert(image.task.ordinal, Failure { code, message });
            }
        }
    }

    /// Returns the metadata of the pictures of a shard that are there.
    pub fn metadata(&self, shard: u32) -> Vec<MetadataRow> {
        self.shard(shard).filter_map(|image| Some(self.row(&image.task, image.made.as_ref()?))).collect()
    }

    /// Returns the metadata of the picture `made` for `task`.
    pub fn row(&self, task: &ImageTask, made: &Made) -> MetadataRow {
        let (file_name, blake3) = (self.path(self.image(task)), made.blake3.to_string());
        let Made { bytes, suspect, scored, .. } = *made;
        MetadataRow { task: task.clone(), file_name, bytes, blake3, suspect, scored }
    }

    /// Returns a hash of what a shard's file should hold: which pictures, in which order, with which cells.
    pub fn contents(&self, shard: u32, columns: &[Arc<str>]) -> Blake3 {
        let mut hasher = blake3::Hasher::new();
        columns.iter().for_each(|column| feed(&mut hasher, column.as_bytes()));
        for image in self.shard(shard) {
            let Some(made) = &image.made else { continue };
            let job = &image.task.job;
            feed(&mut hasher, image.task.key().as_bytes());
            feed(&mut hasher, &made.blake3.0);
            feed(&mut hasher, &[u8::from(made.suspect)]);
            feed(&mut hasher, &job.row.to_le_bytes());
            for (name, cell) in job.extra.iter() {
                feed(&mut hasher, name.as_bytes());
                feed(&mut hasher, cell.as_bytes());
            }
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// Hashes `bytes` so that no two lists of them look the same.
fn feed(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

impl Made {
    fn new(done: &DoneImage) -> Made {
        let DoneImage { bytes, blake3, suspect, scored, .. } = *done;
        Made { bytes, blake3, suspect, scored, spool: done.spool.clone() }
    }
}

/// The code under which the journal keeps an image that kills the process.
pub const KILLS: &str = "kills_the_process";

/// Returns whether images that failed so kill what they are made on.
fn kills(code: &str) -> bool {
    [KILLS, KILLS_DEVICES].contains(&code)
}

/// Returns what to do with an image that is not there.
fn judge(state: &State, key: &str, hash: RowHash, retry_failed: bool) -> Verdict {
    let convicted = state.failed(key).is_some_and(|failed| kills(&failed.code) && failed.row_hash == hash);
    match state.verdict(key) {
        // Asked for by name it gets another chance, but not beside others.
        _ if retry_failed && convicted => Verdict::Suspect,
        Verdict::Guilty if retry_failed => Verdict::Suspect,
        _ if convicted => Verdict::Guilty,
        verdict => verdict,
    }
}

fn guilty(state: &State, key: &str) -> Failure {
    let message = match state.failed(key) {
        Some(failed) if kills(&failed.code) => failed.message.clone(),
        _ => format!(
            "the process died {} times with this image in flight, the last time with it alone",
            state.times_in_flight(key)
        ),
    };
    Failure { code: KILLS.to_string(), message }
}

/// Finds the images without id that are there under another key: rows that merely moved. Returns them, the images that no
/// row asks for any more, and the keys of those whose rows ask for something else now.
fn moves(
    images: &[Image],
    unmade: &[usize],
    state: &State,
    taken: &HashSet<String>,
    layout: &Layout,
) -> (Vec<Move>, Vec<Removed>, HashSet<String>) {
    let mut free: Vec<(&str, &DoneImage)> = state.all_done().filter(|(key, _)| !taken.contains(*key)).collect();
    if free.is_empty() {
        return (Vec::new(), Vec::new(), HashSet::new());
    }
    // In the order of their keys, so that equal rows keep theirs.
    free.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let mut by_hash: HashMap<RowHash, Vec<(&str, &DoneImage)>> = HashMap::new();
    for (key, done) in free {
        by_hash.entry(done.row_hash).or_default().push((key, done));
    }
    let mut moves = Vec::new();
    for &ordinal in unmade.iter().filter(|&&ordinal| images[ordinal].task.job.id.is_none()) {
        let found = by_hash.get_mut(&Digest(images[ordinal].task.row_hash())).and_then(Vec::pop);
        if let Some((from, image)) = found {
            moves.push(Move { ordinal, from: from.to_string(), image: image.clone() });
        }
    }
    let moved: HashSet<usize> = moves.iter().map(|found| found.ordinal).collect();
    let keys = |moved_ones: bool| -> HashSet<String> {
        let chosen = unmade.iter().filter(|ordinal| moved.contains(ordinal) == moved_ones);
        chosen.map(|&ordinal| images[ordinal].task.key()).collect()
    };
    // A row that has the name of a picture and is to be made was edited; its old picture is no row's that is gone.
    let (edited, renamed) = (keys(false), keys(true));
    let left = by_hash.into_values().flatten();
    let (replaced, left): (Vec<_>, Vec<_>) = left.partition(|(key, _)| edited.contains(*key));
    let shard = |done: &DoneImage| layout.shard_in(&done.file_name).unwrap_or(0);
    let mut removed: Vec<Removed> = left
        .into_iter()
        .map(|(key, done)| Removed {
            key: key.to_string(),
            shard: shard(done),
            image: done.clone(),
            is_replaced: renamed.contains(key),
        })
        .collect();
    removed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    (moves, removed, replaced.into_iter().map(|(key, _)| key.to_string()).collect())
}
