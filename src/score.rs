//! How well a picture fits its text, as a CLIP model sees it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// CLIP score: 100 times the cosine between the embeddings of picture and text, and 0 where that is negative (arXiv 2104.08718,
/// as torchmetrics 1.9 `CLIPScore` scales it). Kept in ten-thousandths, so that what is compared is what is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClipScore(u32);

/// Steps of a point.
const STEPS: f64 = 10_000.0;

impl ClipScore {
    /// Returns the score of two embeddings with this cosine between them; `None` if it is not a number.
    pub fn of_cosine(cosine: f64) -> Option<Self> {
        ClipScore::of(100.0 * cosine.clamp(0.0, 1.0))
    }

    /// Returns the score as a number from 0 to 100.
    pub fn value(self) -> f64 {
        f64::from(self.0) / STEPS
    }

    fn of(value: f64) -> Option<Self> {
        (0.0..=100.0).contains(&value).then(|| ClipScore((value * STEPS).round() as u32))
    }
}

impl fmt::Display for ClipScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

impl FromStr for ClipScore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let score = text.parse().ok().and_then(ClipScore::of);
        score.ok_or_else(|| "expected a number from 0 to 100, such as `25`".to_string())
    }
}

impl Serialize for ClipScore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.value())
    }
}

impl<'de> Deserialize<'de> for ClipScore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        ClipScore::of(value).ok_or_else(|| serde::de::Error::custom("a CLIP score is a number from 0 to 100"))
    }
}

/// What the scorer says of a picture that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// The picture's score.
    pub clip_score: ClipScore,
    /// How many more pictures were made for it, each with another seed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Whether the score is below what was asked for: the best of all tries is kept.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_low: bool,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// When a picture is good enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// The least score; `None` takes every picture.
    pub min: Option<ClipScore>,
    /// How many more pictures are made at most, each with another seed, for an image whose first has less.
    pub retries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_a_hundred_cosines_and_never_negative() {
        let value = |cosine| ClipScore::of_cosine(cosine).map(ClipScore::value);
        assert_eq!(value(0.312_345_67), Some(31.2346));
        assert_eq!((value(-0.5), value(1.000_001)), (Some(0.0), Some(100.0)));
        assert_eq!(value(f64::NAN), None);
    }

    #[test]
    fn a_score_is_the_same_after_writing_and_reading() {
        for step in [0, 1, 2_999, 312_346, 1_000_000] {
            let scored = Scored { clip_score: ClipScore(step), retries: step, is_low: step > 5 };
            let text = serde_json::to_string(&scored).expect("valid JSON");
            assert_eq!(serde_json::from_str::<Scored>(&text).expect("our own"), scored, "{text}");
            assert_eq!(ClipScore(step).to_string().parse(), Ok(ClipScore(step)));
        }
        assert!(serde_json::from_str::<ClipScore>("101").is_err());
        assert!("-1".parse::<ClipScore>().is_err() && "NaN".parse::<ClipScore>().is_err());
    }
}
