//! The filmstrip of a trace: rows of frames, the oldest at the left, and below them how large the noise estimate and the guidance
//! were at each evaluation.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::chart::{self, Line};
use super::frames::{Frame, Phase, level, short};
use crate::error::Result;
use crate::output::contact_sheet::{self, frame as outline};
use crate::output::lettering::{CAPTION, FAINT_INK, INK, PAPER, SMALL, Typeface};
use crate::output::png;

/// Pixels of a picture's longer side.
const SIDE: u32 = 128;
const MARGIN: u32 = 22;
const GAP: u32 = 12;
/// Between two rows.
const ROW_GAP: u32 = 18;
/// From a heading to its row, and from a picture to its text.
const TEXT_GAP: u32 = 6;
const CHART_HEIGHT: u32 = 110;

/// Pictures beside each other.
struct Row {
    heading: &'static str,
    cells: Vec<Cell>,
}

/// A picture and the lines below it.
struct Cell {
    picture: RgbImage,
    lines: Vec<String>,
}

/// Returns the strip as PNG: the way forward if there is one, the latents on the way back, the guesses below them, and the chart.
/// At most `columns` frames fit beside each other; they are evenly chosen, first and last among them.
///
/// # Errors
/// The picture cannot be encoded.
pub fn strip(frames: &[Frame], columns: usize) -> Result<Vec<u8>> {
    let of = |phase: Phase| frames.iter().filter(|frame| frame.phase == phase).collect::<Vec<_>>();
    let (forward, backward) = (of(Phase::Forward), of(Phase::Backward));
    let rows = rows(&chosen(&forward, columns), &chosen(&backward, columns));
    let most = rows.iter().map(|row| row.cells.len()).max().unwrap_or(1) as u32;
    let width = 2 * MARGIN + most * (SIDE + GAP) - GAP;
    let chart_height = CHART_HEIGHT + TEXT_GAP + CAPTION.line as u32;
    let height = 2 * MARGIN + rows.iter().map(|row| row.height() + ROW_GAP).sum::<u32>() + chart_height;
    let mut page = RgbImage::from_pixel(width, height, PAPER);
    let mut y = MARGIN;
    for row in &rows {
        row.draw(&mut page, y);
        y += row.height() + ROW_GAP;
    }
    draw_chart(&mut page, &backward, y);
    png::encode_plain(&page)
}

fn rows(forward: &[&Frame], backward: &[&Frame]) -> Vec<Row> {
    let cell = |frame: &&Frame| Cell { picture: scaled(&frame.sample), lines: numbers(frame) };
    let guess = |frame: &&Frame| {
        let picture = scaled(frame.pred_original_sample.as_ref()?);
        Some(Cell { picture, lines: Vec::new() })
    };
    let mut rows = Vec::new();
    if !forward.is_empty() {
        let heading = "forward: noise is added to the picture step by step";
        rows.push(Row { heading, cells: forward.iter().map(cell).collect() });
    }
    let heading = "latents, decoded: noise is removed step by step";
    rows.push(Row { heading, cells: backward.iter().map(cell).collect() });
    let heading = "pred_original_sample: what the network takes the final picture to be";
    rows.push(Row { heading, cells: backward.iter().filter_map(guess).collect() });
    rows
}

/// Returns what stands below a frame.
fn numbers(frame: &Frame) -> Vec<String> {
    let timestep = match frame.timestep {
        None => "the picture".to_string(),
        Some(_) if frame.noise == 0.0 => "as given".to_string(),
        Some(timestep) => format!("timestep {}", short(timestep)),
    };
    vec![timestep, format!("sigma {}", level(frame.sigma))]
}

impl Row {
    fn height(&self) -> u32 {
        let cell = |cell: &Cell| cell.picture.height() + TEXT_GAP + (cell.lines.len() as f32 * SMALL.line) as u32;
        CAPTION.line as u32 + TEXT_GAP + self.cells.iter().map(cell).max().unwrap_or(0)
    }

    fn draw(&self, page: &mut RgbImage, top: u32) {
        Typeface::of(CAPTION).draw(page, self.heading, MARGIN as f32, top as f32 + CAPTION.ascent, INK);
        let (small, top) = (Typeface::of(SMALL), top + CAPTION.line as u32 + TEXT_GAP);
        for (column, Cell { picture, lines }) in self.cells.iter().enumerate() {
            let x = MARGIN + column as u32 * (SIDE + GAP);
            outline(page, x, top, picture.width(), picture.height());
            imageops::replace(page, picture, i64::from(x), i64::from(top));
            let mut baseline = (top + picture.height() + TEXT_GAP) as f32 + SMALL.ascent;
            for line in lines {
                small.draw(page, line, x as f32, baseline, FAINT_INK);
                baseline += SMALL.line;
            }
        }
    }
}

/// Draws how large noise estimate and guidance were, below the frames of the same evaluations.
fn draw_chart(page: &mut RgbImage, backward: &[&Frame], top: u32) {
    let values = |of: fn(&Frame) -> Option<f64>| backward.iter().filter_map(|frame| of(frame)).collect::<Vec<_>>();
    let lines = [
        Line { name: "noise estimate", ink: Rgb([31, 95, 140]), values: values(|frame| frame.noise_size) },
        Line { name: "guidance", ink: Rgb([179, 86, 30]), values: values(|frame| frame.guidance_size) },
    ];
    let heading = "root mean square at each step of:";
    let typeface = Typeface::of(CAPTION);
    let baseline = top as f32 + CAPTION.ascent;
    typeface.draw(page, heading, MARGIN as f32, baseline, INK);
    let mut x = MARGIN as f32 + typeface.width(heading) + 14.0;
    for line in &lines {
        chart::swatch(page, x, baseline - 5.0, line.ink);
        typeface.draw(page, line.name, x + 22.0, baseline, INK);
        x += typeface.width(line.name) + 42.0;
    }
    let top = top + CAPTION.line as u32 + TEXT_GAP;
    let (left, width) = (MARGIN + SIDE / 2, page.width() - 2 * MARGIN - SIDE);
    chart::draw(page, (left, top, width, CHART_HEIGHT), &lines, backward.len());
}

/// Returns `count` of `frames`, evenly, first and last among them.
fn chosen<'f>(frames: &[&'f Frame], count: usize) -> Vec<&'f Frame> {
    let last = frames.len().saturating_sub(1);
    if frames.len() <= count || count < 2 {
        return frames.to_vec();
    }
    (0..count).map(|at| frames[(at * last + (count - 1) / 2) / (count - 1)]).collect()
}

/// Returns a picture of the strip's size: small ones enlarged dot by dot where that comes out even.
fn scaled(image: &RgbImage) -> RgbImage {
    let longer = image.width().max(image.height()).max(1);
    let filter = if SIDE.is_multiple_of(longer) { FilterType::Nearest } else { FilterType::Lanczos3 };
    contact_sheet::scaled(image, SIDE, filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_are_always_chosen() {
        let frames: Vec<Frame> =
            (0..21).map(|at| Frame::forward(f64::from(at), (1.0, 0.0), 0.0, RgbImage::new(1, 1))).collect();
        let all: Vec<&Frame> = frames.iter().collect();
        let steps = |count| chosen(&all, count).iter().filter_map(|frame| frame.timestep).collect::<Vec<_>>();
        assert_eq!(steps(2), [0.0, 20.0]);
        assert_eq!(steps(5), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(steps(50).len(), 21);
    }
}
