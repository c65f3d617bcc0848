//! A small chart of lines, drawn into a picture.

use image::{Rgb, RgbImage};

use crate::output::lettering::{FAINT_INK, FRAME, SMALL, Typeface, blend};

/// One line of a chart.
pub struct Line {
    /// What it shows.
    pub name: &'static str,
    /// Its colour.
    pub ink: Rgb<u8>,
    /// Its values, evenly spaced from the left.
    pub values: Vec<f64>,
}

/// Draws `lines` into the area (left, top, width, height), the scale left of it, on one scale that begins at 0; `places` values
/// reach from its left to its right end.
pub fn draw(page: &mut RgbImage, (left, top, width, height): (u32, u32, u32, u32), lines: &[Line], places: usize) {
    let peak = nice(lines.iter().flat_map(|line| &line.values).fold(0.0, |most: f64, value| most.max(*value)));
    let y = |value: f64| f64::from(top) + 4.0 + (1.0 - value / peak) * f64::from(height - 8);
    let small = Typeface::of(SMALL);
    for part in [0.0, 0.5, 1.0] {
        let at = y(part * peak);
        (left..left + width).for_each(|x| blend(page, i64::from(x), at as i64, FRAME, 1.0));
        let label = format!("{}", part * peak);
        small.draw(page, &label, left as f32 - 8.0 - small.width(&label), at as f32 + 4.0, FAINT_INK);
    }
    for line in lines {
        let step = f64::from(width - 1) / places.saturating_sub(1).max(1) as f64;
        let points: Vec<(f64, f64)> = (line.values.iter().enumerate())
            .map(|(at, value)| (f64::from(left) + at as f64 * step, y(*value)))
            .collect();
        points.windows(2).for_each(|pair| segment(page, pair[0], pair[1], line.ink));
        points.iter().for_each(|point| dot(page, *point, 2.6, line.ink));
    }
}

/// Draws the short piece of a line that stands beside its name.
pub fn swatch(page: &mut RgbImage, x: f32, y: f32, ink: Rgb<u8>) {
    segment(page, (x.into(), y.into()), (f64::from(x) + 16.0, y.into()), ink);
}

/// Returns the next number above `value` that reads well on a scale.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let unit = 10_f64.powi(value.log10().floor() as i32);
    [1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0]
        .into_iter()
        .map(|times| times * unit)
        .find(|nice| *nice >= value)
        .unwrap_or(10.0 * unit)
}

/// Draws a line two pixels wide: as many dots as pixels on its way.
fn segment(page: &mut RgbImage, from: (f64, f64), to: (f64, f64), ink: Rgb<u8>) {
    let length = (to.0 - from.0).hypot(to.1 - from.1);
    let count = (2.0 * length).ceil().max(1.0);
    for at in 0..=count as u32 {
        let part = f64::from(at) / count;
        dot(page, (from.0 + part * (to.0 - from.0), from.1 + part * (to.1 - from.1)), 1.0, ink);
    }
}

/// Draws a disc with a soft edge. Where discs overlap, the ink gets no darker than it is.
fn dot(page: &mut RgbImage, (x, y): (f64, f64), radius: f64, ink: Rgb<u8>) {
    let reach = radius.ceil() as i64 + 1;
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let (px, py) = (x.round() as i64 + dx, y.round() as i64 + dy);
            let distance = (px as f64 - x).hypot(py as f64 - y);
            let cover = (radius + 0.5 - distance).clamp(0.0, 1.0);
            if cover > 0.0 {
                blend(page, px, py, ink, cover as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers_above_the_values() {
        assert_eq!([0.0, 0.97, 1.05, 7.3, 9.1, 0.031].map(nice), [1.0, 1.0, 1.2, 8.0, 10.0, 0.04]);
    }

    #[test]
    fn a_chart_stays_in_its_area() {
        let mut page = RgbImage::from_pixel(200, 80, Rgb([255, 255, 255]));
        let line = Line { name: "x", ink: Rgb([0, 0, 0]), values: vec![0.0, 2.0, 1.0] };
        draw(&mut page, (40, 10, 140, 60), &[line], 3);
        let inked = |x: u32, y: u32| page.get_pixel(x, y).0[0] < 100;
        assert!((0..200).any(|x| (0..80).any(|y| inked(x, y))));
        assert!((0..200).all(|x| (0..80).all(|y| !inked(x, y) || (10..=75).contains(&y) && (25..=182).contains(&x))));
    }
}
