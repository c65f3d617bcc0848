//! Who uploads to a place in a bucket: an object with a heartbeat, so that two machines do not work for one worker.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::Store;
use super::objects::{Object, Version};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::run_folder::host;

/// How often a living owner says so.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Without a sign of life for so long, an owner counts as dead. Clocks of machines and buckets may differ by some of it.
const DEAD: Duration = Duration::from_secs(180);

/// Where leases are.
const FOLDER: &str = ".nightshift/locks/";

/// Who has a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    host: String,
    pid: u32,
    /// Whoever comes back to the same spool takes up its own.
    spool: String,
    /// Changes at every sign of life, so that every version is another.
    beat: u64,
}

/// A place that is ours as long as we say so often enough.
#[derive(Debug)]
pub struct Lease {
    name: String,
    owner: Owner,
    version: Version,
    renewed: Instant,
}

/// What came of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// The place is ours, or the bucket cannot be asked.
    Alive,
    /// Another has it.
    Lost,
}

impl Lease {
    /// Takes the place of `worker` for the spool called `spool`.
    ///
    /// # Errors
    /// Kind `Locked`: a living process on another machine has it. Kind `Storage`.
    pub fn take(store: &Store, worker: &str, spool: &str) -> Result<Lease> {
        let name = format!("{FOLDER}{worker}.json");
        let former = store.get(&name)?;
        let known = former.as_ref().and_then(|former| serde_json::from_slice::<Owner>(&former.bytes).ok());
        if let (Some(former), Some(known)) = (&former, &known)
            && known.spool != spool
        {
            let silent = SystemTime::now().duration_since(former.modified).unwrap_or_default();
            if silent < DEAD {
                return Err(locked(store, &name, known, silent));
            }
        }
        let beat = known.map_or(0, |known| known.beat + 1);
        let owner = Owner { host: host(), pid: std::process::id(), spool: spool.to_string(), beat };
        let put = store.put_if(&name, owner.json().into(), former.as_ref().map(|former| &former.version))?;
        let version = match put {
            Some(version) => version,
            // An answer that got lost leaves it ours: what was tried once more is then refused.
            None => match store.get(&name)? {
                Some(found) if found.bytes[..] == owner.json()[..] => found.version,
                _ => return Err(just_taken(store)),
            },
        };
        Ok(Lease { name, owner, version, renewed: Instant::now() })
    }

    /// Says that we live, if it is time.
    pub fn beat(&mut self, store: &Store) -> Pulse {
        if self.renewed.elapsed() < HEARTBEAT {
            return Pulse::Alive;
        }
        self.owner.beat += 1;
        match store.put_if(&self.name, self.owner.json().into(), Some(&self.version)) {
            Ok(Some(version)) => (self.version, self.renewed) = (version, Instant::now()),
            Ok(None) => return self.look(store),
            // What cannot be reached cannot be anybody else's either.
            Err(_) => {}
        }
        Pulse::Alive
    }

    /// Looks who has the place: an answer that got lost leaves it ours, of another version.
    fn look(&mut self, store: &Store) -> Pulse {
        let Ok(found) = store.get(&self.name) else { return Pulse::Alive };
        let is_ours = |bytes: &[u8]| {
            serde_json::from_slice(bytes)
                .is_ok_and(|owner: Owner| owner.spool == self.owner.spool && owner.pid == self.owner.pid)
        };
        match found {
            Some(found) if is_ours(&found.bytes) => {
                self.version = found.version;
                Pulse::Alive
            }
            _ => Pulse::Lost,
        }
    }

    /// Gives the place back.
    pub fn release(self, store: &Store) {
        // One that stays is taken up by the same spool at once, by others after a while.
        let _ = store.delete(&self.name);
    }
}

impl Owner {
    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are valid JSON")
    }
}

fn just_taken(store: &Store) -> Error {
    Error::new(ErrorKind::Locked, "bucket_locked", "another run has just begun to upload here")
        .at(Location::file(store.url().to_string()))
        .hint("wait for it or stop it; or give another --out")
}

fn locked(store: &Store, name: &str, owner: &Owner, silent: Duration) -> Error {
    let Owner { host, pid, .. } = owner;
    let message = format!("a run on {host} (process {pid}) uploads here, last seen {} s ago", silent.as_secs());
    let hint = format!(
        "wait for it or stop it; a dead one's place is free {} s after it was last seen, or when `{name}` is removed",
        DEAD.as_secs()
    );
    Error::new(ErrorKind::Locked, "bucket_locked", message).at(Location::file(store.url().to_string())).hint(hint)
}

/// Returns who works at a place whose state folder has these objects, as text.
///
/// # Errors
/// Kind `Storage`.
pub fn living(store: &Store, state: &[Object]) -> Result<Option<String>> {
    let mut found = Vec::new();
    for object in state.iter().filter(|object| object.name.starts_with(FOLDER)) {
        let Some(lease) = store.get(&object.name)? else { continue };
        let silent = SystemTime::now().duration_since(lease.modified).unwrap_or_default();
        if let (true, Ok(Owner { host, pid, .. })) = (silent < DEAD, serde_json::from_slice(&lease.bytes)) {
            found.push(format!("process {pid} on {host}, seen {} s ago", silent.as_secs()));
        }
    }
    Ok((!found.is_empty()).then(|| found.join(", ")))
}

/// Returns what a spool calls itself in leases.
pub fn spool_name(spool: &Path) -> String {
    format!("{}:{}", host(), spool.display())
}
