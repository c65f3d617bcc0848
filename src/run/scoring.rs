//! The scorer of a run: a CLIP model, its tokenizer, and how pictures are prepared for it.

use std::path::Path;

use image::RgbImage;
use ndarray::{Array1, ArrayView1};

use crate::engine::Scorer;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ScorerSpec;
use crate::onnx::{OnnxClip, Runtime, SessionOptions, TextInput};
use crate::pixels::ClipImage;
use crate::prompt::{PromptSyntax, PromptTokenizer, Segment};

/// See the module's text.
pub(super) struct ClipScorer {
    clip: OnnxClip,
    tokenizer: PromptTokenizer,
    preprocessor: ClipImage,
    syntax: PromptSyntax,
}

impl ClipScorer {
    /// Loads the scorer `spec`, for prompts that are written in `syntax`.
    ///
    /// # Errors
    /// Its tokenizer is broken, or a graph or the device cannot be loaded.
    pub(super) fn load(
        runtime: &Runtime,
        spec: &ScorerSpec,
        options: &SessionOptions,
        syntax: PromptSyntax,
    ) -> Result<Self> {
        let (clip, tokenizer) = (OnnxClip::load(runtime, spec, options)?, spec.prompt_tokenizer()?);
        Ok(ClipScorer { clip, tokenizer, preprocessor: spec.preprocessor.clone(), syntax })
    }
}

/// Checks that the folder `dir` is a scorer's, without running it.
///
/// # Errors
/// A file is missing or broken, or the graphs are not a CLIP model's.
pub fn check_scorer(dir: &Path) -> Result<()> {
    ScorerSpec::open(dir)?.prompt_tokenizer().map(drop)
}

impl Scorer for ClipScorer {
    fn cosine(&mut self, image: &RgbImage, text: &str) -> Result<f64> {
        let tokens = self.tokenizer.encode(&words(self.syntax, text)?)?;
        let length = tokens.count.min(tokens.input_ids.len());
        let text = TextInput { input_ids: ArrayView1::from(&tokens.input_ids), length };
        let (image, text) = self.clip.embed(self.preprocessor.pixel_values(image).view(), text)?;
        if image.len() != text.len() || image.is_empty() {
            let message = format!("it embeds pictures in {} numbers and texts in {}", image.len(), text.len());
            return Err(Error::new(ErrorKind::Model, "graph_shape", message));
        }
        Ok(cosine(&image, &text))
    }
}

/// Returns the words of a prompt, without what gives them weight.
fn words(syntax: PromptSyntax, prompt: &str) -> Result<String> {
    let mut words = String::new();
    for segment in syntax.parse(prompt)? {
        match segment {
            Segment::Text { text, .. } => words += &text,
            Segment::Break => words.push(' '),
        }
    }
    Ok(words)
}

/// In float64 and in order, so that it is the same everywhere.
fn cosine(a: &Array1<f32>, b: &Array1<f32>) -> f64 {
    let dot =
        |a: &Array1<f32>, b: &Array1<f32>| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_does_not_know_lengths() {
        let of = |values: [f32; 2]| Array1::from_vec(values.to_vec());
        assert_eq!(cosine(&of([3.0, 0.0]), &of([0.5, 0.0])), 1.0);
        assert_eq!(cosine(&of([1.0, 0.0]), &of([0.0, 9.0])), 0.0);
        assert!(cosine(&of([0.0, 0.0]), &of([1.0, 0.0])).is_nan());
    }

    #[test]
    fn words_are_scored_without_their_weights() {
        let of = |syntax, text| words(syntax, text).expect("valid");
        assert_eq!(of(PromptSyntax::A1111, "a (red:1.3) heart BREAK [blue]"), "a red heart blue");
        assert_eq!(of(PromptSyntax::Plain, "a (red:1.3) heart"), "a (red:1.3) heart");
    }
}
