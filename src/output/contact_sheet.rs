//! A contact sheet: many pictures on one page, each with its prompt and its settings below.

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::lettering::{CAPTION, FAINT_INK, FRAME, INK, PAPER, SMALL, Typeface, wrap};

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
    scaled(image, target, filter)
}

/// Returns a picture whose longer side has so many pixels.
pub(crate) fn scaled(image: &RgbImage, longer_side: u32, filter: FilterType) -> RgbImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height).max(1);
    let scaled = |side: u32| (u64::from(side) * u64::from(longer_side) / u64::from(longer)).max(1) as u32;
    imageops::resize(image, scaled(width), scaled(height), filter)
}

/// Draws a line one pixel wide around a rectangle.
pub(crate) fn frame(page: &mut RgbImage, x: u32, y: u32, width: u32, height: u32) {
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

/// The typefaces of a sheet.
struct Fonts {
    caption: Typeface,
    small: Typeface,
}

impl Fonts {
    fn load() -> Self {
        Fonts { caption: Typeface::of(CAPTION), small: Typeface::of(SMALL) }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn item(width: u32, height: u32, caption: &str) -> SheetItem {
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3) as u8, (y * 3) as u8, 90]));
        SheetItem { image, caption: caption.into(), small: "seed 1 · 20 steps".into() }
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
