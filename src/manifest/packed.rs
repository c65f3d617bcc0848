//! Archives of one file, gzip and zstd: known by their first bytes, whatever they are called.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, ErrorKind as Io, Read};
use std::rc::Rc;

/// Bytes that any archive may hold.
const ALWAYS: u64 = 1 << 30;

/// How many times its own size a larger archive may hold: texts shrink to a tenth, repetitive ones to a hundredth.
const RATIO: u64 = 200;

/// Bytes that are unpacked at once.
const CHUNK: usize = 1 << 16;

/// Why a file has no bytes for us.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The file itself cannot be read.
    Unreadable(io::Error),
    /// The archive (its kind is named) ends before its content does.
    Cut(&'static str),
    /// The archive holds something that is none of it.
    Damaged(&'static str, io::Error),
    /// The archive would take more memory than a text could mean.
    Bomb(&'static str),
}

/// Returns all bytes of `reader`, unpacked where they are an archive.
pub(super) fn unpacked(reader: impl Read) -> Result<Vec<u8>, Trouble> {
    within(reader, ALWAYS)
}

/// Does so for archives that hold no more than `always` bytes, or [`RATIO`] times their size.
fn within(reader: impl Read, always: u64) -> Result<Vec<u8>, Trouble> {
    let state = Rc::new(State::default());
    let mut raw = BufReader::with_capacity(CHUNK, Counted { reader, state: state.clone() });
    let first = raw.fill_buf().map_err(Trouble::Unreadable)?;
    let (kind, archive): (_, Box<dyn Read + '_>) = if first.starts_with(b"\x1F\x8B") {
        ("gzip", Box::new(flate2::bufread::MultiGzDecoder::new(raw)))
    } else if first.starts_with(b"\x28\xB5\x2F\xFD") {
        ("zstd", Box::new(zstd::Decoder::with_buffer(raw).map_err(Trouble::Unreadable)?))
    } else {
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).map_err(Trouble::Unreadable)?;
        return Ok(bytes);
    };
    let enough = || always.max(RATIO.saturating_mul(state.count.get()));
    all(archive, enough).map_err(|error| match error {
        None => Trouble::Bomb(kind),
        Some(error) if state.failed.get() => Trouble::Unreadable(error),
        Some(error) if error.kind() == Io::UnexpectedEof => Trouble::Cut(kind),
        Some(error) => Trouble::Damaged(kind, error),
    })
}

/// Returns all bytes of an archive; the error is `None` where they are more than `enough`.
fn all(mut archive: impl Read, enough: impl Fn() -> u64) -> Result<Vec<u8>, Option<io::Error>> {
    let mut bytes = Vec::new();
    loop {
        match archive.by_ref().take(CHUNK as u64).read_to_end(&mut bytes) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() as u64 > enough() => return Err(None),
            Ok(_) => {}
            Err(error) => return Err(Some(error)),
        }
    }
}

/// What is known about a file while an archive's reader has it.
#[derive(Default)]
struct State {
    count: Cell<u64>,
    failed: Cell<bool>,
}

/// Counts bytes, and tells the file's own errors from those of the archive.
struct Counted<R> {
    reader: R,
    state: Rc<State>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        match &read {
            Ok(count) => self.state.count.set(self.state.count.get() + *count as u64),
            Err(error) => self.state.failed.set(error.kind() != Io::Interrupted),
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(bytes).expect("in memory");
        writer.finish().expect("in memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).expect("in memory")
    }

    #[test]
    fn archives_of_several_members_are_read_whole() {
        assert_eq!(unpacked(&b"plain"[..]).expect("read"), b"plain");
        assert_eq!(unpacked(&b""[..]).expect("read"), b"");
        for pack in [gzip, zstd] {
            assert_eq!(unpacked(&*pack(b"prompt\n")).expect("read"), b"prompt\n");
            assert_eq!(unpacked(&*[pack(b"a\n"), pack(b""), pack(b"b\n")].concat()).expect("read"), b"a\nb\n");
        }
    }

    #[test]
    fn a_cut_archive_never_gives_fewer_rows() {
        let text: Vec<u8> = (0..2000u32).flat_map(|row| row.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for pack in [gzip, zstd] {
            let (first, both) = (pack(&text).len(), [pack(&text), pack(&text)].concat());
            for end in (5..both.len()).filter(|end| *end != first && (*end < 40 || *end % 97 == 0 || *end > first - 20))
            {
                let read = unpacked(&both[..end]);
                assert!(matches!(read, Err(Trouble::Cut(_))), "{end} of {}: {read:?}", both.len());
            }
        }
    }

    #[test]
    fn damage_is_found() {
        for pack in [gzip, zstd] {
            let mut bytes = pack(b"some text that is long enough to be packed, packed, packed, packed");
            bytes.extend(b"rest");
            assert!(matches!(unpacked(&*bytes), Err(Trouble::Damaged(..) | Trouble::Cut(_))));
        }
        let mut bytes = gzip(b"some text");
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        assert!(matches!(unpacked(&*bytes), Err(Trouble::Damaged("gzip", _))), "its checksum is looked at");
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        for pack in [gzip, zstd] {
            let bytes = pack(&vec![b'a'; 10_000_000]);
            assert!(matches!(within(&*bytes, 100_000), Err(Trouble::Bomb(_))));
            assert_eq!(within(&*bytes, 10_000_000).expect("allowed").len(), 10_000_000);
        }
    }
}
