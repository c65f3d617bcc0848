//! A contact sheet: many pictures on one page, each with its prompt and its settings below.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use epaint_default_fonts::{EMOJI_ICON, HACK_REGULAR, NOTO_EMOJI_REGULAR, UBUNTU_LIGHT};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

/// One picture of a sheet.
#[derive(Debug, Clone, PartialEq)]
pub struct SheetItem {
    /// The picture, of any size.
    pub image: RgbImage,
    /// Text below it, wrapped to at most [`CAPTION_LINES`] lines.
    pub caption: String,
    /// A small line below the caption, wrapped to at most [`SMALL_LINES`].
    pub small: String,
}

/// How many lines of caption fit.
pub const CAPTION_LINES: usize = 3;
/// How many lines of small text fit.
pub const SMALL_LINES: usize = 2;

/// Pixels: the longer side of a thumbnail is at most this, and at least two thirds of it.
const THUMB: u32 = 192;
const MARGIN: u32 = 24;
const GAP: u32 = 20;
/// Between a thumbnail and its caption.
const TEXT_GAP: u32 = 8;

const PAPER: Rgb<u8> = Rgb([250, 249, 246]);
const INK: Rgb<u8> = Rgb([32, 33, 36]);
const FAINT_INK: Rgb<u8> = Rgb([112, 114, 120]);
const FRAME: Rgb<u8> = Rgb([214, 212, 206]);

/// Returns the pictures in rows of `columns`, each with its texts, on one page. No pictures give an empty page.
pub fn render(items: &[SheetItem], columns: usize) -> RgbImage {
    let columns = columns.clamp(1, items.len().max(1));
    let fonts = Fonts::load();
    let cells: Vec<Cell> = items.iter().map(|item| Cell::of(item, &fonts)).collect();
    let rows: Vec<&[Cell]> = cells.chunks(columns).collect();
    let width = 2 * MARGIN + columns as u32 * (THUMB + GAP) - GAP;
    let heights: Vec<u32> = rows.iter().map(|row| row.iter().map(Cell::height).max().unwrap_or(0)).collect();
    let height = 2 * MARGIN + heights.iter().map(|height| height + GAP).sum::<u32>().saturating_sub(GAP);
    let mut page = RgbImage::from_pixel(width, height, PAPER);
    let mut y = MARGIN;
    for (row, height) in rows.iter().zip(heights) {
        let thumbs = row.iter().map(|cell| cell.thumb.height()).max().unwrap_or(0);
        for (column, cell) in row.iter().enumerate() {
            cell.draw(&mut page, MARGIN + column as u32 * (THUMB + GAP), y, thumbs, &fonts);
        }
        y += height + GAP;
    }
    page
}

struct Cell {
    thumb: RgbImage,
    caption: Vec<String>,
    small: Vec<String>,
}

impl Cell {
    fn of(item: &SheetItem, fonts: &Fonts) -> Self {
        Cell {
            thumb: thumbnail(&item.image),
            caption: wrap(&item.caption, &fonts.caption, THUMB as f32, CAPTION_LINES),
            small: wrap(&item.small, &fonts.small, THUMB as f32, SMALL_LINES),
        }
    }

    fn height(&self) -> u32 {
        let small = if self.small.is_empty() { 0.0 } else { 3.0 + self.small.len() as f32 * SMALL.line };
        self.thumb.height() + TEXT_GAP + (self.caption.len() as f32 * CAPTION.line + small) as u32
    }

    /// Draws the cell with its thumbnail in the middle of a square as high as the row's highest.
    fn draw(&self, page: &mut RgbImage, left: u32, top: u32, thumbs: u32, fonts: &Fonts) {
        let x = left + (THUMB - self.thumb.width()) / 2;
        let y = top + (thumbs - self.thumb.height()) / 2;
        frame(page, x, y, self.thumb.width(), self.thumb.height());
        imageops::replace(page, &self.thumb, i64::from(x), i64::from(y));
        let mut baseline = (top + thumbs + TEXT_GAP) as f32 + CAPTION.ascent;
        for line in &self.caption {
            fonts.caption.draw(page, line, left as f32, baseline, INK);
            baseline += CAPTION.line;
        }
        baseline += 3.0 - CAPTION.ascent + SMALL.ascent;
        for line in &self.small {
            fonts.small.draw(page, line, left as f32, baseline, FAINT_INK);
            baseline += SMALL.line;
        }
    }
}

/// Returns the picture so that its longer side is close to [`THUMB`]: small ones enlarged by a whole factor where that
/// comes close enough, all others scaled to just that.
fn thumbnail(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height).max(1);
    let factor = THUMB / longer;
    let (target, filter) = match longer * factor {
        close if close * 3 >= THUMB * 2 => (close, FilterType::CatmullRom),
        _ if longer > THUMB => (THUMB, FilterType::Lanczos3),
        _ => (THUMB, FilterType::CatmullRom),
    };
    let scaled = |side: u32| (u64::from(side) * u64::from(target) / u64::from(longer)).max(1) as u32;
    imageops::resize(image, scaled(width), scaled(height), filter)
}

/// Draws a line one pixel wide around a rectangle.
fn frame(page: &mut RgbImage, x: u32, y: u32, width: u32, height: u32) {
    let mut dot = |x: u32, y: u32| {
        if x < page.width() && y < page.height() {
            page.put_pixel(x, y, FRAME);
        }
    };
    for dx in 0..width + 2 {
        dot(x - 1 + dx, y - 1);
        dot(x - 1 + dx, y + height);
    }
    for dy in 0..height + 2 {
        dot(x - 1, y - 1 + dy);
        dot(x + width, y - 1 + dy);
    }
}

/// Pixels of a style of text.
struct Style {
    size: f32,
    line: f32,
    ascent: f32,
}

const CAPTION: Style = Style { size: 16.0, line: 19.0, ascent: 14.0 };
const SMALL: Style = Style { size: 12.0, line: 15.0, ascent: 11.0 };

struct Fonts {
    caption: Typeface,
    small: Typeface,
}

impl Fonts {
    fn load() -> Self {
        Fonts { caption: Typeface::new(UBUNTU_LIGHT, CAPTION.size), small: Typeface::new(HACK_REGULAR, SMALL.size) }
    }
}

/// A font at a size, and others for the signs that it lacks.
struct Typeface {
    fonts: [FontRef<'static>; 3],
    scale: PxScale,
}

impl Typeface {
    fn new(main: &'static [u8], size: f32) -> Self {
        let load = |bytes| FontRef::try_from_slice(bytes).expect("the fonts in the binary are sound");
        Typeface { fonts: [load(main), load(NOTO_EMOJI_REGULAR), load(EMOJI_ICON)], scale: PxScale::from(size) }
    }

    /// Returns the font that has `c`, or the first if none has.
    fn font(&self, c: char) -> &FontRef<'static> {
        self.fonts.iter().find(|font| font.glyph_id(c).0 != 0).unwrap_or(&self.fonts[0])
    }

    fn width(&self, text: &str) -> f32 {
        text.chars().map(|c| self.advance(c)).sum()
    }

    fn advance(&self, c: char) -> f32 {
        let font = self.font(c);
        font.as_scaled(self.scale).h_advance(font.glyph_id(c))
    }

    fn draw(&self, page: &mut RgbImage, text: &str, left: f32, baseline: f32, ink: Rgb<u8>) {
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
fn blend(page: &mut RgbImage, x: i64, y: i64, ink: Rgb<u8>, cover: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    let Some(pixel) = page.get_pixel_mut_checked(x, y) else { return };
    let cover = cover.clamp(0.0, 1.0);
    for (paper, ink) in pixel.0.iter_mut().zip(ink.0) {
        *paper = (f32::from(*paper) * (1.0 - cover) + f32::from(ink) * cover).round() as u8;
    }
}

/// Returns `text` in lines at most `width` pixels wide, at most `most` of them, the last with an ellipsis if more is left.
/// Any white space separates words; a word wider than a line is cut where it must be.
fn wrap(text: &str, typeface: &Typeface, width: f32, most: usize) -> Vec<String> {
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

    fn caption_font() -> Typeface {
        Typeface::new(UBUNTU_LIGHT, CAPTION.size)
    }

    fn item(width: u32, height: u32, caption: &str) -> SheetItem {
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3) as u8, (y * 3) as u8, 90]));
        SheetItem { image, caption: caption.into(), small: "seed 1 · 20 steps".into() }
    }

    #[test]
    fn lines_fit_and_what_does_not_ends_in_an_ellipsis() {
        let font = caption_font();
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

    #[test]
    fn thumbnails_come_close_to_one_size() {
        assert_eq!(thumbnail(&RgbImage::new(64, 64)).dimensions(), (192, 192));
        assert_eq!(thumbnail(&RgbImage::new(1024, 512)).dimensions(), (192, 96));
        assert_eq!(thumbnail(&RgbImage::new(100, 50)).dimensions(), (192, 96));
        assert_eq!(thumbnail(&RgbImage::new(80, 40)).dimensions(), (160, 80));
        assert_eq!(thumbnail(&RgbImage::new(10_000, 1)).dimensions(), (192, 1));
    }

    #[test]
    fn a_sheet_shows_every_picture_and_ink_for_every_caption() {
        let page = render(&[item(64, 64, "one 🦊"), item(128, 64, "two"), item(512, 512, "three")], 2);
        assert_eq!(page.width(), 2 * MARGIN + 2 * THUMB + GAP);
        assert_eq!(page.get_pixel(MARGIN, MARGIN), &Rgb([0, 0, 90]));
        assert!(page.pixels().filter(|pixel| pixel.0[0] < 80 && pixel.0[2] < 80).count() > 50, "dark ink");
        assert_eq!(render(&[], 3).width(), 2 * MARGIN + THUMB);
    }
}
