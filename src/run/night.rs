//! The night itself: window after window of shards is claimed, made, completed and given back, until nothing is left that this
//! worker could do.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::catalogue::Catalogue;
use super::make::{Desk, Maker};
use super::seal::Sealer;
use super::sharding::{Claims, Share};
use crate::error::Result;
use crate::job::ImageTask;
use crate::journal::Follower;
use crate::output::spool::Spool;

/// Shards that are made together: enough that the lanes stay full, few enough that finished ones appear during the night.
const WINDOW: usize = 8;
/// How often a worker that has nothing to do looks whether others have left it something.
const LOOK: Duration = Duration::from_millis(500);

/// One worker's night.
pub struct Night<'a, 'd> {
    /// Everything that pictures go through.
    pub desk: &'a Desk<'d>,
    /// Completes shards.
    pub sealer: Sealer<'a>,
    /// Every image of the run.
    pub catalogue: &'a mut Catalogue,
    /// Which shards are ours.
    pub share: Share,
    /// Those that we hold.
    pub claims: Claims,
    /// Shards that are ours or that we took over: what the summary counts.
    pub scope: BTreeSet<u32>,
    /// Loads the networks when the first image is to be made.
    pub load: &'a dyn Fn() -> Result<Maker<'a>>,
    /// Seconds that this took.
    pub loading: f64,
    /// The networks, once loaded.
    pub maker: Option<Maker<'a>>,
    /// Images still to be made before the run stops early.
    pub limit: usize,
    /// Number of the session, which names spool files.
    pub session: u32,
    /// Spool files written.
    pub spools: u32,
    /// What other workers write.
    pub others: Follower,
}

impl Night<'_, '_> {
    /// Makes and completes all that is ours.
    ///
    /// # Errors
    /// The networks cannot be loaded, or storage fails.
    pub fn work(&mut self) -> Result<()> {
        while !self.is_over() {
            let window = self.next_window()?;
            if window.is_empty() {
                break;
            }
            self.make_window(&window)?;
        }
        self.make_suspects()?;
        for shard in self.claims.held() {
            self.complete(shard)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.desk.stop.asked() || self.limit == 0
    }

    /// Claims the next shards with something to do; none where there is nothing left for us.
    fn next_window(&mut self) -> Result<Vec<u32>> {
        loop {
            let own: Vec<u32> = self.catalogue.shards().filter(|shard| self.share.owns(*shard)).collect();
            let window = self.claim(&own)?;
            if !window.is_empty() {
                return Ok(window);
            }
            let window = self.claim(&self.left_by_others())?;
            if !window.is_empty() || !self.any_busy(&own) || self.is_over() {
                return Ok(window);
            }
            // Another works on what is ours: it will finish it or die.
            thread::sleep(LOOK);
            self.claims.look_again();
        }
    }

    /// Claims the first of `shards` that have something to do.
    fn claim(&mut self, shards: &[u32]) -> Result<Vec<u32>> {
        let mut window = Vec::new();
        // A small run is shared out shard by shard.
        let size = if self.share.count == 1 { WINDOW } else { (shards.len() / 4).clamp(1, WINDOW) };
        for &shard in shards {
            if window.len() == size {
                break;
            }
            if !self.claims.is_busy(shard) && self.has_work(shard) && self.claims.take(self.desk.folder, shard)? {
                // What others did of it before it became ours is in their journals by now.
                self.catch_up(shard)?;
                if self.has_work(shard) {
                    self.scope.insert(shard);
                    window.push(shard);
                } else {
                    self.claims.release(shard);
                }
            }
        }
        Ok(window)
    }

    /// Takes in what other workers have done of a shard.
    fn catch_up(&mut self, shard: u32) -> Result<()> {
        let state = self.others.catch_up()?;
        self.catalogue.refresh(shard, state);
        if let Some(sealed) = state.sealed(shard) {
            self.sealer.sealed.insert(shard, sealed.clone());
        }
        Ok(())
    }

    /// Returns whether a shard has images to make in company, or is complete but for its file.
    fn has_work(&self, shard: u32) -> bool {
        self.catalogue.missing(shard, false).next().is_some()
            || self.catalogue.is_settled(shard) && self.sealer.is_stale(self.catalogue, shard)
    }

    fn any_busy(&self, shards: &[u32]) -> bool {
        shards.iter().any(|shard| self.claims.is_busy(*shard) && !self.catalogue.is_settled(*shard))
    }

    /// Returns the shards of workers that were here and are done or dead. Workers that never came may work elsewhere: theirs are
    /// not ours to take.
    fn left_by_others(&self) -> Vec<u32> {
        // Workers on other machines cannot be seen alive from here: their shards stay theirs.
        if self.desk.is_remote {
            return Vec::new();
        }
        let folder = self.desk.folder.journal_folder();
        let was_here = |index: u32| {
            let share = Share { index, count: self.share.count };
            folder.join(format!("{}.log", share.worker())).is_file()
        };
        let others = (0..self.share.count).filter(|index| *index != self.share.index && was_here(*index));
        let others: BTreeSet<u32> = others.collect();
        self.catalogue.shards().filter(|shard| others.contains(&(shard % self.share.count))).collect()
    }

    fn make_window(&mut self, window: &[u32]) -> Result<()> {
        for shard in window {
            self.desk.folder.sweep(&format!("images/{shard:05}"))?;
        }
        let missing = window.iter().flat_map(|shard| self.catalogue.missing(*shard, false)).cloned();
        let tasks: Vec<ImageTask> = missing.take(self.limit).collect();
        self.limit -= tasks.len();
        if !tasks.is_empty() {
            self.make(tasks, false)?;
        }
        for shard in window.iter().filter(|shard| self.catalogue.is_settled(**shard)).copied().collect::<Vec<_>>() {
            self.complete(shard)?;
            // One whose pictures were found to be lost stays ours, to be made again.
            if self.catalogue.is_settled(shard) {
                self.claims.release(shard);
            }
        }
        Ok(())
    }

    /// Makes the images that are suspected of killing the process, one at a time, when everything else is done.
    fn make_suspects(&mut self) -> Result<()> {
        let ours: Vec<u32> = self.catalogue.shards().filter(|shard| self.share.owns(*shard)).collect();
        for shard in ours {
            let suspects: Vec<ImageTask> = self.catalogue.missing(shard, true).cloned().collect();
            if suspects.is_empty() || !self.claims.take(self.desk.folder, shard)? {
                continue;
            }
            self.catch_up(shard)?;
            let suspects: Vec<ImageTask> = self.catalogue.missing(shard, true).cloned().collect();
            self.scope.insert(shard);
            tracing::info!("{} images were in flight at two crashes or more: each is made alone", suspects.len());
            for task in suspects {
                if self.is_over() {
                    return Ok(());
                }
                self.limit -= 1;
                self.make(vec![task], true)?;
            }
        }
        Ok(())
    }

    fn make(&mut self, tasks: Vec<ImageTask>, alone: bool) -> Result<()> {
        if self.maker.is_none() {
            let started = Instant::now();
            self.maker = Some((self.load)()?);
            self.loading = started.elapsed().as_secs_f64();
        }
        let maker = self.maker.as_mut().expect("it was just loaded");
        let mut spool = None;
        if self.catalogue.layout().format.is_packed() {
            let name = format!("{}-{}-{}.spool", self.share.worker(), self.session, self.spools);
            self.spools += 1;
            spool = Some(Spool::create(self.desk.folder.durable(), &self.desk.folder.spool_folder(), &name)?);
        }
        maker.make(tasks, alone, self.desk, self.catalogue, spool.as_mut())
    }

    fn complete(&mut self, shard: u32) -> Result<()> {
        self.sealer.seal(self.catalogue, shard)
    }
}
