//! The threads that upload, and the one that copies the journal and says that we live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lease::Lease;
use super::mirror::Mirror;
use super::shared::Shared;
use crate::error::Result;

/// Files that are uploaded at a time.
const AT_A_TIME: usize = 8;
/// How often the journal's thread looks.
const LOOK: Duration = Duration::from_millis(200);
/// How often the last copy of the journal is tried.
const LAST_TRIES: u32 = 3;
/// How long a run that stops waits for that thread.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How often trouble is told.
const TOLD: Duration = Duration::from_secs(60);

/// See the module's text.
pub struct Threads {
    uploading: Vec<JoinHandle<()>>,
    keeping: JoinHandle<(Mirror, Lease)>,
    over: Arc<AtomicBool>,
}

impl Threads {
    /// Starts them. `lost` and `broken` are set if another takes our place.
    pub fn start(
        shared: Arc<Shared>,
        lease: Lease,
        worker: &str,
        lost: Arc<AtomicBool>,
        broken: Arc<AtomicBool>,
    ) -> Threads {
        let over = Arc::new(AtomicBool::new(false));
        shared.queue.open();
        let upload = |_| {
            let shared = shared.clone();
            thread::spawn(move || upload_all(&shared))
        };
        let uploading = (0..AT_A_TIME).map(upload).collect();
        let (mirror, is_over) = (Mirror::new(worker), over.clone());
        let keeping = thread::spawn(move || keep(&shared, mirror, lease, &is_over, &[lost, broken]));
        Threads { uploading, keeping, over }
    }

    /// Ends them; with `is_all_there`, after the last copy of the journal. Without, uploads under way are left to themselves: the
    /// process ends, or they do.
    ///
    /// # Errors
    /// Kind `Storage`: the journal cannot be copied.
    pub fn end(self, shared: &Shared, is_all_there: bool) -> Result<()> {
        self.over.store(true, Ordering::Release);
        shared.queue.close();
        if !is_all_there {
            let patience = Instant::now() + LAST_WORD;
            while !self.keeping.is_finished() && Instant::now() < patience {
                thread::sleep(Duration::from_millis(20));
            }
            if self.keeping.is_finished()
                && let Ok((_, lease)) = self.keeping.join()
            {
                lease.release(&shared.store);
            }
            return Ok(());
        }
        self.uploading.into_iter().for_each(|thread| thread.join().expect("an uploading thread does not panic"));
        let (mut mirror, lease) = self.keeping.join().expect("the journal's thread does not panic");
        let mut copied = mirror.finish(shared);
        for _ in 1..LAST_TRIES {
            if copied.is_err() {
                thread::sleep(Duration::from_secs(1));
                copied = mirror.finish(shared);
            }
        }
        lease.release(&shared.store);
        copied
    }
}

fn upload_all(shared: &Shared) {
    while let Some(item) = shared.queue.pop() {
        match shared.upload().run(&item.name) {
            Ok(Some(bytes)) => {
                shared.note_trouble(None);
                shared.queue.done(&item, bytes);
            }
            Ok(None) => shared.queue.dropped(&item),
            Err(error) => {
                tracing::debug!("{}: {error}", item.name);
                shared.note_trouble(Some(error));
                shared.queue.failed(item);
            }
        }
    }
}

fn keep(
    shared: &Shared,
    mut mirror: Mirror,
    mut lease: Lease,
    over: &AtomicBool,
    lost: &[Arc<AtomicBool>],
) -> (Mirror, Lease) {
    let mut told = None;
    while !over.load(Ordering::Acquire) {
        if super::is_lost(&mut lease, shared) {
            tracing::error!("another run has taken our place in {}: stopping", shared.store.url());
            shared.queue.close();
            lost.iter().for_each(|flag| flag.store(true, Ordering::Release));
            break;
        }
        match mirror.work(shared) {
            Ok(true) => shared.note_trouble(None),
            Ok(false) => {}
            Err(error) => shared.note_trouble(Some(error)),
        }
        tell_trouble(shared, &mut told);
        thread::sleep(LOOK);
    }
    (mirror, lease)
}

/// Says once a minute what keeps files from the bucket: the run goes on meanwhile.
fn tell_trouble(shared: &Shared, told: &mut Option<Instant>) {
    let Some((since, error)) = shared.trouble() else { return };
    let is_new = told.is_none_or(|told| told.elapsed() > TOLD);
    if is_new && since.elapsed() > LOOK * 10 {
        *told = Some(Instant::now());
        tracing::warn!(
            "uploading fails, and is tried again; what is made waits in {}: {error}",
            shared.spool.display()
        );
    }
}
