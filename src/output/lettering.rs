//! Text on pictures: typefaces that are in the binary, lines that fit, and the colours of our pages.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use epaint_default_fonts::{EMOJI_ICON, HACK_REGULAR, NOTO_EMOJI_REGULAR, UBUNTU_LIGHT};
use image::{Rgb, RgbImage};

/// What pages are made of.
pub const PAPER: Rgb<u8> = Rgb([250, 249, 246]);
/// What is written first.
pub const INK: Rgb<u8> = Rgb([32, 33, 36]);
/// What is written beside it.
pub const FAINT_INK: Rgb<u8> = Rgb([112, 114, 120]);
/// Lines around pictures and below charts.
pub const FRAME: Rgb<u8> = Rgb([214, 212, 206]);

/// A style of text, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Height of the letters.
    pub size: f32,
    /// From one baseline to the next.
    pub line: f32,
    /// From the top of a line to its baseline.
    pub ascent: f32,
    font: &'static [u8],
}

/// What a picture shows.
pub const CAPTION: Style = Style { size: 16.0, line: 19.0, ascent: 14.0, font: UBUNTU_LIGHT };
/// Its numbers, in letters of one width.
pub const SMALL: Style = Style { size: 12.0, line: 15.0, ascent: 11.0, font: HACK_REGULAR };

/// A font at a size, and others for the signs that it lacks.
pub struct Typeface {
    fonts: [FontRef<'static>; 3],
    scale: PxScale,
}

impl Typeface {
    /// Returns the typeface of a style.
    pub fn of(style: Style) -> Self {
        let load = |bytes| FontRef::try_from_slice(bytes).expect("the fonts in the binary are sound");
        let fonts = [load(style.font), load(NOTO_EMOJI_REGULAR), load(EMOJI_ICON)];
        Typeface { fonts, scale: PxScale::from(style.size) }
    }

    /// Returns the font that has `c`, or the first if none has.
    fn font(&self, c: char) -> &FontRef<'static> {
        self.fonts.iter().find(|font| font.glyph_id(c).0 != 0).unwrap_or(&self.fonts[0])
    }

    /// Returns how wide `text` is, in pixels.
    pub fn width(&self, text: &str) -> f32 {
        text.chars().map(|c| self.advance(c)).sum()
    }

    fn advance(&self, c: char) -> f32 {
        let font = self.font(c);
        font.as_scaled(self.scale).h_advance(font.glyph_id(c))
    }

    /// Draws a line of text that begins at `left` and stands on `baseline`.
    pub fn draw(&self, page: &mut RgbImage, text: &str, left: f32, baseline: f32, ink: Rgb<u8>) {
        let mut x = left;
        for c in text.chars() {
            let font = self.font(c);
            let glyph: Glyph = font.glyph_id(c).with_scale_and_position(self.scale, point(x, baseline));
            if let Some(outline) = font.outline_glyph(glyph) {
                let bounds = outline.px_bounds();
                outline.draw(|dx, dy, cover| {
                    blend(page, bounds.min.x as i64 + i64::from(dx), bounds.min.y as i64 + i64::from(dy), ink, cover)
                });
            }
            x += self.advance(c);
        }
    }
}

/// Mixes `ink` into a pixel by the share of it that is covered; outside of the page nothing happens.
pub fn blend(page: &mut RgbImage, x: i64, y: i64, ink: Rgb<u8>, cover: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    let Some(pixel) = page.get_pixel_mut_checked(x, y) else { return };
    let cover = cover.clamp(0.0, 1.0);
    for (paper, ink) in pixel.0.iter_mut().zip(ink.0) {
        *paper = (f32::from(*paper) * (1.0 - cover) + f32::from(ink) * cover).round() as u8;
    }
}

/// Returns `text` in lines at most `width` pixels wide, at most `most` of them, the last with an ellipsis if more is left.
/// Any white space separates words; a word wider than a line is cut where it must be.
pub fn wrap(text: &str, typeface: &Typeface, width: f32, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace().flat_map(|word| cut_word(word, typeface, width)) {
        let fits = |line: &&mut String| typeface.width(line) + typeface.width(" ") + typeface.width(&word) <= width;
        let full = lines.len() == most;
        match lines.last_mut().filter(fits) {
            Some(line) => {
                line.push(' ');
                line.push_str(&word);
            }
            None if full => {
                let last = lines.pop().unwrap_or_default();
                lines.push(with_ellipsis(last, typeface, width));
                return lines;
            }
            None => lines.push(word),
        }
    }
    lines
}

/// Returns a word in pieces that fit a line.
fn cut_word(word: &str, typeface: &Typeface, width: f32) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut used = 0.0;
    for c in word.chars() {
        let advance = typeface.advance(c);
        if used + advance > width && used > 0.0 {
            pieces.push(String::new());
            used = 0.0;
        }
        used += advance;
        pieces.last_mut().expect("there is always a piece").push(c);
    }
    pieces
}

fn with_ellipsis(mut line: String, typeface: &Typeface, width: f32) -> String {
    while typeface.width(&line) + typeface.width("…") > width && line.pop().is_some() {}
    line.truncate(line.trim_end().len());
    line + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_what_does_not_ends_in_an_ellipsis() {
        let font = Typeface::of(CAPTION);
        let text =
            "a small red heart above a yellow ring on a blue background, very sharp, in the style of nobody at all";
        let lines = wrap(text, &font, 192.0, 3);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| font.width(line) <= 192.0), "{lines:?}");
        assert!(lines[2].ends_with('…') && lines[0].starts_with("a small red"));
        assert_eq!(wrap("short", &font, 192.0, 3), ["short"]);
        assert!(wrap("", &font, 192.0, 3).is_empty());
        assert!(wrap(&"w".repeat(100), &font, 192.0, 9).iter().all(|line| font.width(line) <= 192.0));
    }
}
