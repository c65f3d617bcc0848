//! Who works on what: files that only one process can create (`O_EXCL`), numbered so that taking over a dead owner's is one
//! such creation too. Locks of the file system (`flock`) are not used: Lustre has them off or per machine, NFS varies.
//!
//! A lease `name` is the file `name.N` with the highest N. Its owner lives as long as its process does, where that can be seen
//! (same boot, same pid namespace), else as long as its heart beats: the time of its heartbeat file, by the file system's own
//! clock. An owner whose heart stopped for too long (a suspended machine) finds out with [`Lease::check`], before it writes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::durable::{Durable, storage_error};

/// Time between two beats.
const BEAT: Duration = Duration::from_secs(3);
/// Without a beat for so long an owner counts as dead.
const SILENCE: Duration = Duration::from_secs(30);
/// An owner that has not beaten for so long looks whether somebody took over before it writes.
const DOUBT: Duration = Duration::from_secs(15);
/// A lease without text is one that is being written just now, or whose writer died of it.
const WRITING: Duration = Duration::from_secs(2);

/// A process, so that another can tell whether it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the machine.
    pub host: String,
    /// Random name of the machine's current boot.
    pub boot: String,
    /// The process's pid namespace: numbers mean nothing outside of it.
    pub namespace: String,
    /// The process.
    pub pid: u32,
    /// When it started, in the kernel's ticks: pids come again.
    pub started: u64,
    /// The file whose time is the heartbeat.
    pub beat: String,
}

impl Owner {
    /// Returns this process, whose heartbeat is the file `beat`.
    fn this_process(beat: &str) -> Owner {
        let pid = std::process::id();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string();
        let namespace = fs::read_link("/proc/self/ns/pid").map(|path| path.display().to_string()).unwrap_or_default();
        let started = start_of(pid).unwrap_or(0);
        Owner { host: crate::output::run_folder::host(), boot, namespace, pid, started, beat: beat.to_string() }
    }

    /// Returns whether it is a process that this one can see.
    fn is_near(&self, us: &Owner) -> bool {
        !self.boot.is_empty() && (&self.boot, &self.namespace) == (&us.boot, &us.namespace)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// Returns when the process `pid` started (`proc_pid_stat(5)`, field 22), or `None` if there is none.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody has it.
    Free,
    /// Somebody alive has it.
    Held(Owner),
    /// Its owner is dead; `None` where the owner died before saying who it was.
    Dead(Option<Owner>),
    /// It is being written, or was when its owner died: look again in a moment.
    Unclear,
}

/// A folder of leases.
#[derive(Debug, Clone)]
pub struct Leases {
    durable: Durable,
    folder: PathBuf,
}

/// A lease that is ours until it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    name: String,
    number: u64,
    heart: Option<Heart>,
}

impl Leases {
    /// Returns the leases of `folder`, written through `durable`.
    pub fn new(durable: &Durable, folder: &Path) -> Leases {
        Leases { durable: durable.clone(), folder: folder.to_path_buf() }
    }

    /// Takes the lease `name` and keeps its heart beating; `None` with its owner where somebody alive has it.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn take(&self, name: &str) -> Result<Result<Lease, Owner>> {
        self.take_as(name, None)
    }

    /// Takes the lease `name` for the time that `under`, another of ours, is held: it has no heart of its own.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn take_under(&self, name: &str, under: &Lease) -> Result<Result<Lease, Owner>> {
        self.take_as(name, Some(under))
    }

    /// Returns who has the lease `name`.
    ///
    /// # Errors
    /// Kind `Storage`: the folder cannot be read.
    pub fn state(&self, name: &str) -> Result<LeaseState> {
        Ok(match self.numbers(name)?.last() {
            None => LeaseState::Free,
            Some(number) => self.state_of(&self.path(name, *number)),
        })
    }

    /// Returns the leases whose owners live: their names and owners.
    ///
    /// # Errors
    /// Kind `Storage`: the folder cannot be read.
    pub fn living(&self) -> Result<Vec<(String, Owner)>> {
        let mut highest = BTreeMap::new();
        for (name, number) in self.files()? {
            let seen = highest.entry(name).or_insert(number);
            *seen = number.max(*seen);
        }
        let states = highest.into_iter().map(|(name, number)| (self.state_of(&self.path(&name, number)), name));
        Ok(states
            .filter_map(|(state, name)| match state {
                LeaseState::Held(owner) => Some((name, owner)),
                _ => None,
            })
            .collect())
    }

    /// Removes the leases of dead owners.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn sweep(&self) -> Result<()> {
        for (name, number) in self.files()? {
            let path = self.path(&name, number);
            if matches!(self.state_of(&path), LeaseState::Dead(_)) {
                self.durable.remove(&path)?;
            }
        }
        Ok(())
    }

    fn take_as(&self, name: &str, under: Option<&Lease>) -> Result<Result<Lease, Owner>> {
        self.durable.make_folder(&self.folder)?;
        let waiting = Instant::now();
        loop {
            let numbers = self.numbers(name)?;
            let number = match numbers.last() {
                None => 0,
                Some(last) => match self.state_of(&self.path(name, *last)) {
                    LeaseState::Held(owner) => return Ok(Err(owner)),
                    LeaseState::Unclear if waiting.elapsed() < 2 * WRITING => {
                        thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                    LeaseState::Free => continue,
                    _ => last + 1,
                },
            };
            if let Some(lease) = self.create(name, number, under)? {
                for number in numbers {
                    // A dead owner's file that stays does no harm: the highest number counts.
                    let _ = self.durable.disk().remove(&self.path(name, number));
                }
                return Ok(Ok(lease));
            }
        }
    }

    /// Creates the file; `None` where another was faster.
    fn create(&self, name: &str, number: u64, under: Option<&Lease>) -> Result<Option<Lease>> {
        let path = self.path(name, number);
        let own_beat = file_name(name, number);
        let beat = under.map_or(own_beat, |lease| file_name(&lease.name, lease.number));
        let text = serde_json::to_vec(&Owner::this_process(&beat)).expect("strings and numbers are valid JSON");
        let failed = |error| storage_error("write the lease", &path, 0, error);
        let mut file = match self.durable.disk().create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            other => other.map_err(failed)?,
        };
        if let Err(error) = file.write_all(&text) {
            let _ = self.durable.disk().remove(&path);
            return Err(failed(error));
        }
        // Who was slow to write may have been taken for dead.
        if self.numbers(name)?.last() != Some(&number) {
            return Ok(None);
        }
        let heart = under.is_none().then(|| Heart::start(&self.durable, &path));
        Ok(Some(Lease { leases: self.clone(), name: name.to_string(), number, heart }))
    }

    fn state_of(&self, path: &Path) -> LeaseState {
        let Ok(text) = fs::read(path) else { return LeaseState::Free };
        let Ok(owner) = serde_json::from_slice::<Owner>(&text) else {
            let writing = self.silence(path).is_none_or(|silence| silence < WRITING);
            return if writing { LeaseState::Unclear } else { LeaseState::Dead(None) };
        };
        if self.lives(&owner) { LeaseState::Held(owner) } else { LeaseState::Dead(Some(owner)) }
    }

    fn lives(&self, owner: &Owner) -> bool {
        if owner.is_near(&Owner::this_process("")) {
            return start_of(owner.pid) == Some(owner.started);
        }
        self.silence(&self.folder.join(&owner.beat)).is_some_and(|silence| silence < SILENCE)
    }

    /// Returns how long ago the file at `path` was touched by the file system's clock; `None` where there is none.
    fn silence(&self, path: &Path) -> Option<Duration> {
        let beat = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        let now = self.now().unwrap_or_else(SystemTime::now);
        Some(now.duration_since(beat).unwrap_or_default())
    }

    /// Returns the time by the file system's own clock, which on a network is another machine's.
    fn now(&self) -> Option<SystemTime> {
        let probe = self.folder.join(format!(".now-{}-{:?}", std::process::id(), thread::current().id()));
        drop(self.durable.disk().create(&probe).ok()?);
        let time = fs::metadata(&probe).and_then(|metadata| metadata.modified()).ok();
        let _ = self.durable.disk().remove(&probe);
        time
    }

    fn numbers(&self, name: &str) -> Result<Vec<u64>> {
        let files = self.files()?.into_iter().filter(|(other, _)| other == name);
        let mut numbers: Vec<u64> = files.map(|(_, number)| number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns name and number of every lease file.
    fn files(&self) -> Result<Vec<(String, u64)>> {
        let failed = |error| storage_error("list the folder", &self.folder, 0, error);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(failed)?.file_name();
            let Some((name, number)) = file.to_str().and_then(|file| file.rsplit_once('.')) else { continue };
            if let (false, Ok(number)) = (name.is_empty(), number.parse()) {
                files.push((name.to_string(), number));
            }
        }
        Ok(files)
    }

    fn path(&self, name: &str, number: u64) -> PathBuf {
        self.folder.join(file_name(name, number))
    }
}

fn file_name(name: &str, number: u64) -> String {
    format!("{name}.{number}")
}

impl Lease {
    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks that the lease is still ours, which it is unless our heart stopped for long. To be asked before every write.
    ///
    /// # Errors
    /// Kind `Locked`: somebody took us for dead and went on in our place. Kind `Storage`.
    pub fn check(&self) -> Result<()> {
        let in_doubt = self.heart.as_ref().is_some_and(|heart| heart.silence() > DOUBT);
        if !in_doubt || self.leases.numbers(&self.name)?.last() == Some(&self.number) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Locked,
            "lease_lost",
            "this process stood still for so long that another took over its work",
        )
        .at(Location::file(self.leases.path(&self.name, self.number)))
        .hint("nothing is lost; give the same command again if there is more to do"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.heart.take();
        // A file that stays names a process that is gone.
        let _ = self.leases.durable.disk().remove(&self.leases.path(&self.name, self.number));
    }
}

/// A thread that touches a file until it is dropped.
#[derive(Debug)]
struct Heart {
    stopped: Arc<AtomicBool>,
    started: Instant,
    /// Milliseconds from `started` to the last beat that arrived.
    last: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Heart {
    fn start(durable: &Durable, path: &Path) -> Heart {
        let (stopped, last, started) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Instant::now());
        let (durable, path) = (durable.clone(), path.to_path_buf());
        let (over, beaten) = (stopped.clone(), last.clone());
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                thread::park_timeout(BEAT);
                if durable.disk().touch(&path).is_ok() {
                    beaten.store(started.elapsed().as_millis() as u64, Ordering::Release);
                }
            }
        });
        Heart { stopped, started, last, thread: Some(thread) }
    }

    fn silence(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Acquire)))
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leases() -> (tempfile::TempDir, Leases) {
        let folder = tempfile::tempdir().unwrap();
        let leases = Leases::new(&Durable::default(), folder.path());
        (folder, leases)
    }

    fn write(folder: &Path, name: &str, change: impl Fn(&mut Owner)) {
        let mut owner = Owner::this_process(name);
        change(&mut owner);
        fs::write(folder.join(name), serde_json::to_vec(&owner).unwrap()).unwrap();
    }

    fn age(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn one_owner_at_a_time() {
        let (folder, leases) = leases();
        let first = leases.take("worker").unwrap().unwrap();
        assert_eq!(leases.take("worker").unwrap().unwrap_err().pid, std::process::id());
        let claim = leases.take_under("shard", &first).unwrap().unwrap();
        assert_eq!(leases.living().unwrap().len(), 2);
        first.check().unwrap();
        drop((first, claim));
        assert_eq!(leases.state("worker").unwrap(), LeaseState::Free);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays");
    }

    #[test]
    fn a_dead_process_of_this_machine_is_taken_over_at_once() {
        let (folder, leases) = leases();
        write(folder.path(), "worker.4", |owner| owner.started += 1);
        assert!(matches!(leases.state("worker").unwrap(), LeaseState::Dead(Some(_))));
        let lease = leases.take("worker").unwrap().unwrap();
        assert_eq!(lease.number, 5);
        assert!(!folder.path().join("worker.4").exists());
    }

    #[test]
    fn a_process_elsewhere_lives_while_its_heart_beats() {
        let (folder, leases) = leases();
        for (far, silence) in [("boot", 5), ("namespace", 5)] {
            write(folder.path(), "worker.0", |owner| match far {
                "boot" => owner.boot += "x",
                _ => owner.namespace += "x",
            });
            age(&folder.path().join("worker.0"), silence);
            assert!(leases.take("worker").unwrap().is_err(), "{far}");
        }
        age(&folder.path().join("worker.0"), 31);
        assert!(leases.take("worker").unwrap().is_ok());
    }

    #[test]
    fn a_claim_lives_as_long_as_the_heart_of_its_worker() {
        let (folder, leases) = leases();
        write(folder.path(), "worker.0", |owner| owner.boot += "x");
        write(folder.path(), "shard.0", |owner| (owner.boot, owner.beat) = ("x".into(), "worker.0".into()));
        age(&folder.path().join("shard.0"), 1000);
        assert!(matches!(leases.state("shard").unwrap(), LeaseState::Held(_)));
        fs::remove_file(folder.path().join("worker.0")).unwrap();
        assert!(matches!(leases.state("shard").unwrap(), LeaseState::Dead(_)));
    }

    #[test]
    fn a_lease_whose_writer_died_of_it_is_taken_over() {
        let (folder, leases) = leases();
        fs::write(folder.path().join("worker.0"), "").unwrap();
        assert_eq!(leases.state("worker").unwrap(), LeaseState::Unclear);
        age(&folder.path().join("worker.0"), 3);
        assert!(leases.take("worker").unwrap().is_ok());
    }

    #[test]
    fn many_racers_and_one_winner() {
        let (folder, leases) = leases();
        write(folder.path(), "worker.7", |owner| owner.started += 1);
        let winners: Vec<Option<Lease>> = thread::scope(|scope| {
            let racers: Vec<_> = (0..16).map(|_| scope.spawn(|| leases.take("worker").unwrap().ok())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(winners.iter().flatten().count(), 1);
    }

    #[test]
    fn who_was_taken_for_dead_finds_out() {
        let (folder, leases) = leases();
        let mut lease = leases.take("worker").unwrap().unwrap();
        fs::write(folder.path().join("worker.1"), "").unwrap();
        lease.check().unwrap();
        // A heart whose beats go nowhere, and stopped long ago.
        let mut heart = Heart::start(&leases.durable, Path::new("/nowhere"));
        heart.started = Instant::now() - Duration::from_secs(60);
        lease.heart = Some(heart);
        assert_eq!(lease.check().unwrap_err().code(), "lease_lost");
    }
}
