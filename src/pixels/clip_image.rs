//! A picture → what a CLIP model's image tower takes, as transformers 5.23 prepares it (`CLIPImageProcessor` on Pillow).

use image::RgbImage;
use ndarray::Array3;

use super::resample::{Filter, resize};

/// To which size a picture is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side has so many pixels, and the other follows.
    ShortestEdge(u32),
    /// Width and height, whatever the picture's shape.
    Exact(u32, u32),
}

/// How pictures are prepared (`preprocessor_config.json`), each step where it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipImage {
    /// First, the picture is brought to a size …
    pub resize: Option<(Resize, Filter)>,
    /// … the middle of it is kept, of this width and height …
    pub crop: Option<(u32, u32)>,
    /// … its values, 0 to 255, are multiplied by this …
    pub rescale: Option<f64>,
    /// … and have this mean of each channel taken off, and are divided by this standard deviation.
    pub normalize: Option<([f32; 3], [f32; 3])>,
}

impl ClipImage {
    /// Returns `pixel_values` `[3, height, width]` of `image`.
    pub fn pixel_values(&self, image: &RgbImage) -> Array3<f32> {
        let resized = self.resize.map(|(to, filter)| {
            let (width, height) = to.of(image.dimensions());
            resize(image, width, height, filter)
        });
        let image = resized.as_ref().unwrap_or(image);
        let (width, height) = self.crop.unwrap_or(image.dimensions());
        let (left, top) = (offset(image.width(), width), offset(image.height(), height));
        Array3::from_shape_fn((3, height as usize, width as usize), |(channel, y, x)| {
            let (x, y) = (left + x as i64, top + y as i64);
            // Black where the picture is smaller than what is kept of it.
            let is_inside = (0..i64::from(image.width())).contains(&x) && (0..i64::from(image.height())).contains(&y);
            let value = if is_inside { image.get_pixel(x as u32, y as u32)[channel] } else { 0 };
            self.scaled(value, channel)
        })
    }

    fn scaled(&self, value: u8, channel: usize) -> f32 {
        let value = self.rescale.map_or(f32::from(value), |factor| (f64::from(value) * factor) as f32);
        self.normalize.map_or(value, |(mean, std)| (value - mean[channel]) / std[channel])
    }
}

impl Resize {
    /// Returns width and height of a picture of this size when it is resized (`get_resize_output_image_size`).
    fn of(self, (width, height): (u32, u32)) -> (u32, u32) {
        match self {
            Resize::Exact(width, height) => (width, height),
            Resize::ShortestEdge(edge) => {
                let long = |short: u32, long: u32| (u64::from(edge) * u64::from(long) / u64::from(short.max(1))) as u32;
                if width <= height { (edge, long(width, height)) } else { (long(height, width), edge) }
            }
        }
    }
}

/// Returns where the middle `kept` of `all` pixels begin (`center_crop`).
fn offset(all: u32, kept: u32) -> i64 {
    (i64::from(all) - i64::from(kept)).div_euclid(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ClipImage = ClipImage { resize: None, crop: None, rescale: None, normalize: None };

    #[test]
    fn the_shorter_side_decides() {
        let to = Resize::ShortestEdge(224);
        assert_eq!((to.of((64, 96)), to.of((96, 64)), to.of((512, 512))), ((224, 336), (336, 224), (224, 224)));
        assert_eq!((to.of((100, 333)), Resize::Exact(7, 9).of((100, 333))), ((224, 745), (7, 9)));
    }

    #[test]
    fn the_middle_is_kept_and_what_is_not_there_is_black() {
        let image = RgbImage::from_fn(5, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let kept = ClipImage { crop: Some((2, 4)), ..PLAIN }.pixel_values(&image);
        let channel = |channel: usize| kept.index_axis(ndarray::Axis(0), channel).iter().copied().collect::<Vec<_>>();
        assert_eq!(channel(0), [0.0, 0.0, 1.0, 2.0, 1.0, 2.0, 0.0, 0.0]);
        assert_eq!(channel(2), [0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0]);
    }

    #[test]
    fn values_are_scaled_channel_by_channel() {
        let image = RgbImage::from_pixel(1, 1, image::Rgb([255, 0, 51]));
        let normalize = Some(([0.5, 0.25, 0.2], [0.5, 0.5, 1.0]));
        let values = ClipImage { rescale: Some(1.0 / 255.0), normalize, ..PLAIN }.pixel_values(&image);
        assert_eq!(values.iter().copied().collect::<Vec<_>>(), [1.0, -0.5, 0.0]);
    }
}
