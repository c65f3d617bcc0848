//! A checksum inside of a file whose format has none: of all its bytes, with zeros where it stands itself.

/// What stands before it. No text of ours has a zero byte, so it is found but once.
const MARK: &[u8] = b"nightshift crc32\0";
/// Bytes of the checksum.
const LENGTH: usize = 4;

/// Returns what to put into a file where the checksum is to stand.
pub(super) fn place() -> Vec<u8> {
    [MARK, &[0; LENGTH]].concat()
}

/// Fills in the checksum of a file that has [`place`] in it.
pub(super) fn fill_in(file: &mut [u8]) {
    let sum = crc32fast::hash(file).to_be_bytes();
    if let Some(at) = find(file) {
        file[at..at + LENGTH].copy_from_slice(&sum);
    }
}

/// Returns whether a file is as it was when its checksum was filled in.
pub(super) fn is_right(file: &[u8]) -> bool {
    let Some(at) = find(file) else { return false };
    let mut hasher = crc32fast::Hasher::new();
    [&file[..at], &[0; LENGTH], &file[at + LENGTH..]].into_iter().for_each(|part| hasher.update(part));
    file[at..at + LENGTH] == hasher.finalize().to_be_bytes()
}

fn find(file: &[u8]) -> Option<usize> {
    let start = file.windows(MARK.len()).position(|window| window == MARK)?;
    Some(start + MARK.len()).filter(|at| file.len() >= at + LENGTH)
}
