//! Which files of a spool go to the bucket, by their names relative to it.

use std::path::{Path, PathBuf};

use crate::output::STATE_FOLDER;

/// What a file of the spool is to the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A picture, metadata, a tar, a Parquet file: goes there, and from here once it is there.
    Data,
    /// What another machine needs to go on: kept here, copied there.
    State,
    /// This machine's own business.
    Own,
}

/// Parts of the state folder that mean nothing elsewhere: leases of processes, pictures that wait for their shards, what is under way.
const OWN: [&str; 5] = ["locks", "spool", "moving", "parts", "bucket.json"];

/// Returns what the file called `name` is.
pub fn role(name: &str) -> Role {
    let mut parts = name.split('/');
    if name.rsplit('/').next().is_none_or(|file| file.starts_with('.')) {
        return Role::Own;
    }
    match (parts.next(), parts.next()) {
        (Some(STATE_FOLDER), Some(below)) if !OWN.contains(&below) => Role::State,
        (Some("images" | "data"), Some(_)) => Role::Data,
        (Some(file), None) if file.ends_with(".tar") => Role::Data,
        _ => Role::Own,
    }
}

/// Returns whether a file says what else is there, and so may not come before it.
pub fn is_last(name: &str) -> bool {
    name.ends_with("/metadata.parquet")
}

/// Returns the name of a file of the spool, if it is one.
pub fn name(spool: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(spool).ok()?;
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/")).filter(|name| !name.is_empty())
}

/// Returns the files of a role in `spool`, those that come last at the end.
pub fn files(spool: &Path, wanted: Role) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![spool.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        // A folder that is not there, or goes away, has nothing to upload.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.extend(name(spool, &path).filter(|name| role(name) == wanted));
            }
        }
    }
    found.sort_unstable_by(|a, b| (is_last(a), a).cmp(&(is_last(b), b)));
    found
}

/// Returns where the file called `name` is.
pub fn path(spool: &Path, name: &str) -> PathBuf {
    spool.join(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_have_roles() {
        for (name, wanted) in [
            ("images/00000/a.png", Role::Data),
            ("images/00000/metadata.parquet", Role::Data),
            ("000000.tar", Role::Data),
            ("data/train-00000-of-00001.parquet", Role::Data),
            (".nightshift/run.json", Role::State),
            (".nightshift/journal/worker-0-of-1.log", Role::State),
            (".nightshift/removed/a-1234.png", Role::State),
            (".nightshift/locks/worker-0-of-1", Role::Own),
            (".nightshift/spool/a.spool", Role::Own),
            (".nightshift/bucket.json", Role::Own),
            ("README.md", Role::Own),
            ("notes/000000.tar", Role::Own),
            (".nightshift/.run.json.nightshift.tmp", Role::Own),
            ("images/00000/.a.png.nightshift.tmp", Role::Own),
        ] {
            assert_eq!(role(name), wanted, "{name}");
        }
    }

    #[test]
    fn metadata_comes_last() {
        let spool = tempfile::tempdir().unwrap();
        for name in
            ["images/00000/metadata.parquet", "images/00000/a.png", "images/00001/b.png", ".nightshift/run.json"]
        {
            std::fs::create_dir_all(spool.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(spool.path().join(name), "x").unwrap();
        }
        let wanted = ["images/00000/a.png", "images/00001/b.png", "images/00000/metadata.parquet"];
        assert_eq!(files(spool.path(), Role::Data), wanted);
        assert_eq!(files(spool.path(), Role::State), [".nightshift/run.json"]);
        assert_eq!(name(spool.path(), &spool.path().join("images/x.png")).as_deref(), Some("images/x.png"));
        assert_eq!(name(spool.path(), Path::new("/elsewhere")), None);
    }
}
