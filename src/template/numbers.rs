//! A cell of a column of numbers → what it stands for: `7`, `1-10`, `4..8:0.5`, `20|30`, `1,2,5`.

use super::choice::{Choice, Node, Sequence, Weighted};
use crate::error::{Error, ErrorKind, Result};

/// Most numbers that a range may have.
const MOST: i128 = 10_000_000;

/// Returns what `text` stands for. What is neither a list nor a range stands for itself: whether it is a number is looked at when
/// the manifest is read.
///
/// # Errors
/// Kind `Manifest`: a range that never ends, or of too many numbers. Without a place.
pub fn parse_numbers(text: &str) -> Result<Sequence> {
    let inner = text.trim();
    let inner = inner.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(inner);
    let mut options = Vec::new();
    for item in inner.split(['|', ',']) {
        let (weight, item) = match item.split_once("::") {
            Some((weight, rest)) => (weight.trim().parse().unwrap_or(1.0), rest.trim()),
            None => (1.0, item.trim()),
        };
        let numbers = numbers(item)?;
        // The weight is the item's, not that of each of its numbers.
        let each = weight / numbers.len() as f64;
        options.extend(numbers.into_iter().map(|number| Weighted { weight: each, sequence: vec![Node::Text(number)] }));
    }
    Ok(match &options[..] {
        [Weighted { sequence, .. }] => sequence.clone(),
        _ => vec![Node::Choice(Choice { options, least: 1, most: 1, joiner: String::new() })],
    })
}

/// Returns the numbers of one item.
fn numbers(item: &str) -> Result<Vec<String>> {
    let (ends, step) = item.split_once(':').map_or((item, None), |(ends, step)| (ends, Some(step)));
    let Some((from, to)) = split(ends) else { return Ok(vec![item.to_string()]) };
    let wrong = |message: String, hint: &str| Err(Error::new(ErrorKind::Manifest, "bad_range", message).hint(hint));
    let (Some(from), Some(to), Some(step)) =
        (Decimal::read(from), Decimal::read(to), Decimal::read(step.unwrap_or("1")))
    else {
        return wrong(format!("`{item}` is no range of numbers"), "write `1-10`, or `4..8:0.5` with a step");
    };
    let places = from.places.max(to.places).max(step.places);
    let (from, to, step) = (from.at(places), to.at(places), step.at(places));
    if step <= 0 {
        return wrong(format!("the step of `{item}` is not above 0"), "a falling range is `8..4:0.5`");
    }
    let count = (to - from).abs() / step + 1;
    if count > MOST {
        return wrong(format!("`{item}` has {count} numbers"), "a range may have ten million");
    }
    let sign = (to - from).signum();
    Ok((0..count).map(|number| shown(from + sign * number * step, places)).collect())
}

/// Returns the ends of a range: `1..10`, or `1-10` with nothing but digits and points before the line.
fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once("..").or_else(|| {
        let (from, to) = text.split_once('-')?;
        let is_plain = |text: &str| text.trim().starts_with(|char: char| char.is_ascii_digit());
        (is_plain(from) && is_plain(to)).then_some((from, to))
    })
}

/// A number as it is written: exact, unlike floating point, in which 0.1 three times is not 0.3.
struct Decimal {
    digits: i128,
    places: u32,
}

impl Decimal {
    fn read(text: &str) -> Option<Decimal> {
        let text = text.trim();
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = whole.strip_prefix('-').unwrap_or(whole);
        let fits = unsigned.len() + part.len() <= 28;
        if unsigned.is_empty() || !plain(unsigned) || !plain(part) || !fits {
            return None;
        }
        let digits = format!("{whole}{part}").parse().ok()?;
        Some(Decimal { digits, places: part.len() as u32 })
    }

    fn at(&self, places: u32) -> i128 {
        self.digits * 10_i128.pow(places - self.places)
    }
}

/// Writes `digits` with `places` of them behind the point, and no zeros at the end there.
fn shown(digits: i128, places: u32) -> String {
    if places == 0 {
        return digits.to_string();
    }
    let sign = if digits < 0 { "-" } else { "" };
    let unit = 10_u128.pow(places);
    let (whole, part) = (digits.unsigned_abs() / unit, digits.unsigned_abs() % unit);
    let text = format!("{sign}{whole}.{part:0width$}", width = places as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}
