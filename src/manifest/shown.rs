//! How a user's text looks in our messages: one short line that cannot move the cursor or the reader.

/// Characters of a value that a message shows.
const LIMIT: usize = 60;

/// Returns `value` fit for a message: control characters, line breaks and marks of writing direction escaped, cut with
/// `…` after 60 characters.
pub(super) fn shown(value: &str) -> String {
    let mut text = String::with_capacity(value.len().min(4 * LIMIT));
    let mut characters = value.chars();
    for character in characters.by_ref().take(LIMIT) {
        if hidden(character) {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    if characters.next().is_some() {
        text.push('…');
    }
    text
}

/// Returns whether `character` would be invisible in a message, or would change what stands around it.
fn hidden(character: char) -> bool {
    character.is_control()
        || invisible(character)
        || matches!(character, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether `character` takes no place of its own: zero-width spaces and joiners, byte order marks.
pub(super) fn invisible(character: char) -> bool {
    matches!(character, '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_long_values_cut() {
        assert_eq!(shown("a \u{1b}[31mred\u{7} cat\n"), "a \\u{1b}[31mred\\u{7} cat\\n");
        assert_eq!(shown("\u{202e}gpj"), "\\u{202e}gpj");
        assert_eq!(shown("猫 🐱 é"), "猫 🐱 é");
        assert_eq!(shown(&"é".repeat(61)), "é".repeat(60) + "…");
        assert_eq!(shown(&"é".repeat(60)), "é".repeat(60));
    }
}
