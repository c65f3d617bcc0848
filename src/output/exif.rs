//! The EXIF block of a picture: one tag, UserComment, as AUTOMATIC1111 writes it (with piexif, in UTF-16) and as A1111, Civitai,
//! sd-parsers and others read it.

/// Tag of the folder of EXIF's own tags.
const EXIF_IFD: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;
/// Says that a comment is in Unicode; which of its encodings is nowhere said, and all take it for UTF-16 in the byte order of the
/// block.
const UNICODE: &[u8; 8] = b"UNICODE\0";
/// A header of 8 bytes, and a folder of one tag: number of tags, the tag, and where the next folder is.
const FIRST_IFD: u32 = 8;
const IFD_BYTES: u32 = 2 + 12 + 4;

/// Returns an EXIF block (without `Exif\0\0` before it) with `comment` as UserComment.
pub(super) fn with_comment(comment: &str) -> Vec<u8> {
    let value: Vec<u8> = UNICODE.iter().copied().chain(comment.encode_utf16().flat_map(u16::to_be_bytes)).collect();
    let mut block = b"MM\0\x2a".to_vec();
    block.extend(FIRST_IFD.to_be_bytes());
    block.extend(folder(EXIF_IFD, LONG, 1, FIRST_IFD + IFD_BYTES));
    block.extend(folder(USER_COMMENT, UNDEFINED, value.len() as u32, FIRST_IFD + 2 * IFD_BYTES));
    block.extend(value);
    block
}

/// Returns a folder of one tag. `value` is its value, or where it stands.
fn folder(tag: u16, kind: u16, count: u32, value: u32) -> Vec<u8> {
    let mut bytes = 1_u16.to_be_bytes().to_vec();
    bytes.extend([tag.to_be_bytes(), kind.to_be_bytes()].concat());
    bytes.extend([count.to_be_bytes(), value.to_be_bytes(), 0_u32.to_be_bytes()].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_stands_where_the_tags_say() {
        let block = with_comment("a🦊");
        let number = |at: usize| u32::from_be_bytes(block[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((number(4), number(18), number(40 - 4), number(26 + 6)), (8, 26, 44, 8 + 2 * 3));
        assert_eq!(&block[44..], b"UNICODE\0\0a\xd8\x3e\xdd\x8a");
    }
}
