//! Opening `OUT`: its folders, its workers, and the check that it belongs to this run.
//!
//! A folder that is not ours may hold other files (a README, a job script), but nothing that we would write or that a
//! loader would mix with our images.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::durable::{Durable, WholeFile, storage_error};
use super::fingerprint::{RunFingerprint, other_run};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::journal::{Lease, Leases, Owner};

/// The folder of everything that is not data. Loaders ignore a name with a dot.
pub const STATE_FOLDER: &str = ".nightshift";

/// The name of a worker that has no others beside it.
pub const ONLY_WORKER: &str = "worker-0-of-1";

/// How long a worker waits for another to open the folder.
const OPENING: Duration = Duration::from_secs(60);

/// An output folder in which this process is a worker until this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    out: PathBuf,
    durable: Durable,
    previous: Option<RunFingerprint>,
    leases: Leases,
    opening: Option<Lease>,
    worker: Lease,
    alone: bool,
}

impl RunFolder {
    /// Opens or creates the output folder `out` for the run that `fingerprint` describes, as its worker of the name `worker`, of
    /// which there is one at a time: removes what a crash left half-written, and writes `run.json` where it is missing or only
    /// manifests, model name or version changed. Until [`RunFolder::opened`] no other worker can open it.
    ///
    /// # Errors
    /// Kind `Locked`: a living worker has the name, or works for another manifest. Kind `OtherRun`: it belongs to another run, or
    /// holds images that are not ours. Kind `Usage`: a newer nightshift wrote it. Kind `Storage`.
    pub fn open(out: &Path, fingerprint: &RunFingerprint, worker: &str) -> Result<RunFolder> {
        RunFolder::open_on(Durable::default(), out, fingerprint, worker)
    }

    /// Does what [`RunFolder::open`] does, writing through `durable`.
    ///
    /// # Errors
    /// As [`RunFolder::open`].
    pub fn open_on(durable: Durable, out: &Path, fingerprint: &RunFingerprint, worker: &str) -> Result<RunFolder> {
        let state = out.join(STATE_FOLDER);
        if !state.is_dir() {
            refuse_foreign_data(out)?;
        }
        // Looked at before anything is written, so that a mistake changes nothing.
        check_fingerprint(out, fingerprint)?;
        durable.make_folder(&state)?;
        let leases = Leases::new(&durable, &lease_folder(out));
        let worker_lease = leases.take(worker)?.map_err(|owner| locked(out, &owner))?;
        let opening = wait_for(&leases, "opening", out)?;
        let previous = check_fingerprint(out, fingerprint)?;
        let others = leases.living()?.into_iter().filter(|(name, _)| is_worker(name) && name != worker);
        let other = others.map(|(_, owner)| owner).next();
        let same_manifest = previous.as_ref().is_none_or(|previous| previous.manifests == fingerprint.manifests);
        if let (Some(owner), false) = (&other, same_manifest) {
            return Err(locked(out, owner).hint("it works for another version of the manifest: wait for it or stop it"));
        }
        if other.is_none() {
            remove_temps(&durable, out)?;
        }
        let journal = journal_folder(out);
        if previous.is_none() && has_records(&journal)? {
            return Err(missing_run_file(out));
        }
        if previous.as_ref() != Some(fingerprint) {
            let json = fingerprint.to_json();
            durable.commit(&[WholeFile { path: run_file(out), bytes: json.as_bytes() }])?;
        }
        durable.make_folder(&journal)?;
        let (alone, opening) = (other.is_none(), Some(opening));
        Ok(RunFolder { out: out.to_path_buf(), durable, previous, leases, opening, worker: worker_lease, alone })
    }

    /// Returns the name of this worker.
    pub fn worker(&self) -> &str {
        self.worker.name()
    }

    /// Opens the output folder `out` as it is, as its only worker: no other can work in it or open it until this is dropped.
    ///
    /// # Errors
    /// Kind `Locked`: somebody works in it. Kind `Usage`: it is no output folder, or a newer nightshift wrote it. Kinds
    /// `OtherRun` and `Storage`: its `run.json` is missing or damaged.
    pub fn open_alone(out: &Path) -> Result<RunFolder> {
        let previous = read_run(out)?.ok_or_else(|| missing_run_file(out))?;
        let durable = Durable::default();
        let leases = Leases::new(&durable, &lease_folder(out));
        let take = |name: &str| leases.take(name)?.map_err(|owner| locked(out, &owner));
        let opening = Some(take("opening")?);
        if let Some((_, owner)) = workers(out)?.first() {
            return Err(locked(out, owner));
        }
        let worker = take(ONLY_WORKER)?;
        remove_temps(&durable, out)?;
        let images = out.join("images");
        if images.is_dir() {
            durable.remove_temps(&images, 1)?;
        }
        let out = out.to_path_buf();
        Ok(RunFolder { out, durable, previous: Some(previous), leases, opening, worker, alone: true })
    }

    /// Lets other workers open the folder.
    pub fn opened(&mut self) {
        self.opening = None;
    }

    /// Returns whether no other worker was alive when the folder was opened.
    pub fn was_alone(&self) -> bool {
        self.alone
    }

    /// Returns whether no other worker is alive now.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn is_alone(&self) -> Result<bool> {
        Ok(self.leases.living()?.iter().filter(|(name, _)| is_worker(name)).count() <= 1)
    }

    /// Removes what dead workers left of their leases.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn sweep_leases(&self) -> Result<()> {
        self.leases.sweep()
    }

    /// Claims a shard for this worker; `None` where another living one has it.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn claim(&self, shard: u32) -> Result<Option<Lease>> {
        let claims = Leases::new(&self.durable, &lease_folder(&self.out));
        Ok(claims.take_under(&format!("shard-{shard:05}"), &self.worker)?.ok())
    }

    /// Checks that this process still is the worker it was, before it writes.
    ///
    /// # Errors
    /// Kind `Locked`: another took its place.
    pub fn check(&self) -> Result<()> {
        self.worker.check()
    }

    /// Removes temporary files that a crash left in a folder below the output folder.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn sweep(&self, folder: &str) -> Result<()> {
        let folder = self.out.join(folder);
        if folder.is_dir() { self.durable.remove_temps(&folder, 0).map(drop) } else { Ok(()) }
    }

    /// Returns the folder where images wait for their shards.
    pub fn spool_folder(&self) -> PathBuf {
        spool_folder(&self.out)
    }

    /// Returns the output folder itself.
    pub fn path(&self) -> &Path {
        &self.out
    }

    /// Returns the writer that everything of this run goes through.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Returns what `run.json` said before this run, or `None` for a new folder.
    pub fn previous(&self) -> Option<&RunFingerprint> {
        self.previous.as_ref()
    }

    /// Returns the folder of the journal.
    pub fn journal_folder(&self) -> PathBuf {
        journal_folder(&self.out)
    }

    /// Returns the path of the list of rows that failed.
    pub fn failed_path(&self) -> PathBuf {
        failed_path(&self.out)
    }
}

/// Returns the folder of the journal of `out`.
pub fn journal_folder(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("journal")
}

/// Returns the path of `out`'s list of rows that failed.
pub fn failed_path(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("failed.csv")
}

/// Returns the path of `out`'s `run.json`.
pub fn run_file(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("run.json")
}

/// Returns the folder of `out` where images wait for their shards.
pub fn spool_folder(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("spool")
}

/// Returns what `out`'s `run.json` says; `None` where it has none, but has a journal.
///
/// # Errors
/// Kind `Usage`: `out` is no output folder, or a newer nightshift wrote it. Kind `Storage`: `run.json` is damaged.
pub fn read_run(out: &Path) -> Result<Option<RunFingerprint>> {
    let run = RunFingerprint::read(&run_file(out))?;
    if run.is_some() || journal_folder(out).is_dir() {
        return Ok(run);
    }
    Err(Error::new(ErrorKind::Usage, "no_run", "holds no run of nightshift")
        .at(Location::file(out))
        .hint("give the folder that was `--out` of `nightshift run`"))
}

/// Returns the living workers of `out`: names and processes.
///
/// # Errors
/// Kind `Storage`: the leases cannot be read.
pub fn workers(out: &Path) -> Result<Vec<(String, Owner)>> {
    let living = Leases::new(&Durable::default(), &lease_folder(out)).living()?;
    Ok(living.into_iter().filter(|(name, _)| is_worker(name)).collect())
}

/// Returns the name of this machine.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    let name = name.map(|name| name.trim().to_string()).unwrap_or_default();
    if name.is_empty() { "unknown host".to_string() } else { name }
}

/// Returns whether nobody, dead or alive, has a lease in `out`.
pub fn is_unclaimed(out: &Path) -> bool {
    fs::read_dir(lease_folder(out)).map_or(true, |mut leases| leases.next().is_none())
}

fn lease_folder(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("locks")
}

fn is_worker(lease: &str) -> bool {
    lease.starts_with("worker")
}

/// Returns the error that a living worker has the folder.
pub fn locked(out: &Path, owner: &Owner) -> Error {
    Error::new(ErrorKind::Locked, "locked", format!("a live run has this folder: {owner}"))
        .at(Location::file(out))
        .hint("wait for it or stop it; or give another --out")
}

/// Takes a lease that others hold for moments only.
fn wait_for(leases: &Leases, name: &str, out: &Path) -> Result<Lease> {
    let started = Instant::now();
    loop {
        match leases.take(name)? {
            Ok(lease) => return Ok(lease),
            Err(owner) if started.elapsed() > OPENING => return Err(locked(out, &owner)),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Refuses a folder without our state that holds what we would write, or what a loader would mix with our images.
///
/// # Errors
/// Kind `OtherRun`: it does. Kind `Storage`.
pub fn refuse_foreign_data(out: &Path) -> Result<()> {
    let entries = match fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| storage_error("list the folder", out, 0, error))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| storage_error("list the folder", out, 0, error))?.file_name();
        let name = name.to_string_lossy();
        if is_foreign_data(&name) {
            let message = format!("the folder holds `{name}`, which no run of nightshift has made there");
            return Err(Error::new(ErrorKind::OtherRun, "foreign_output", message)
                .at(Location::file(out))
                .hint("give a new or empty folder as --out"));
        }
    }
    Ok(())
}

/// Returns whether a file or folder of that name in an output folder would be taken for ours.
pub fn is_foreign_data(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    let ends = [".tar", ".png", ".jpg", ".jpeg", ".webp"];
    ["images", "data"].contains(&name) || stem == "metadata" || ends.iter().any(|end| name.ends_with(end))
}

/// Removes what a crash left half-written, in the folders that are ours.
fn remove_temps(durable: &Durable, out: &Path) -> Result<()> {
    durable.remove_temps(out, 0)?;
    // Those of `images` go when their shards are claimed: a folder of a million pictures takes long to list.
    for ours in [STATE_FOLDER, "data"].map(|name| out.join(name)).iter().filter(|folder| folder.is_dir()) {
        durable.remove_temps(ours, 1)?;
    }
    Ok(())
}

/// Returns what `run.json` says, if it is this run; `None` if there is none.
fn check_fingerprint(out: &Path, now: &RunFingerprint) -> Result<Option<RunFingerprint>> {
    let Some(was) = RunFingerprint::read(&run_file(out))? else { return Ok(None) };
    let differences = was.differences(now);
    if differences.is_empty() { Ok(Some(was)) } else { Err(other_run(out, &differences)) }
}

fn has_records(journal: &Path) -> Result<bool> {
    let failed = |error| storage_error("list the folder", journal, 0, error);
    let entries = match fs::read_dir(journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        if entry.and_then(|entry| entry.metadata()).map_err(failed)?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `run.json` is written before any record, so its absence beside records is damage. It cannot be guessed again.
fn missing_run_file(out: &Path) -> Error {
    Error::new(ErrorKind::OtherRun, "run_json_missing", "the folder has a journal but no `run.json`")
        .at(Location::file(run_file(out)))
        .hint("put the file back; or move the folder `.nightshift/journal` away to make all images again")
}
