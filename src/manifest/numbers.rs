//! Text of a cell → a number within its range, or what is wrong with it and how to write it.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::shown::shown;

/// What is wrong with a cell, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Lower-case fragment that quotes the value.
    pub message: String,
    /// How to fix it.
    pub hint: String,
}

impl Problem {
    /// Returns a problem from its two texts.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem { message: message.into(), hint: hint.into() }
    }
}

/// Returns the whole number that `text` (not empty) writes in plain digits.
///
/// # Errors
/// A problem for anything but ASCII digits, and for numbers out of `range`.
pub(super) fn whole(text: &str, range: RangeInclusive<u64>) -> Result<u64, Problem> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_whole(text, &range));
    }
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        // Digits that are no u64 are too many.
        parsed => Err(out_of_range(text, &range, parsed.is_ok_and(|number| number < *range.start()))),
    }
}

/// Returns a number whose format has one kind of numbers only (`20.0`, `2e1`) as a whole one is written, where it is whole
/// and small enough to be exact.
pub(super) fn plain_whole(text: &str) -> Cow<'_, str> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if all_digits(text) {
        return text.into();
    }
    match text.parse::<f64>() {
        Ok(number) if number.fract() == 0.0 && number.abs() <= EXACT => (number as i64).to_string().into(),
        _ => text.into(),
    }
}

/// Returns the finite number that `text` (not empty) writes with a decimal point.
///
/// # Errors
/// A problem for anything else, for NaN and infinities, and for numbers out of `range`.
pub(super) fn real(text: &str, range: RangeInclusive<f64>) -> Result<f64, Problem> {
    let allowed = || format!("use a number from {} to {}", range.start(), range.end());
    let Ok(number) = text.parse::<f64>() else {
        let point = text.replacen(',', ".", 1);
        let hint = match point.parse::<f64>() {
            Ok(_) if point != text => format!("write a decimal point: `{point}`"),
            _ => other_digits(text).unwrap_or_else(allowed),
        };
        return Err(Problem::new(format!("`{}` is not a number", shown(text)), hint));
    };
    if !number.is_finite() {
        return Err(Problem::new(format!("`{}` is not a finite number", shown(text)), allowed()));
    }
    if !range.contains(&number) {
        return Err(out_of_range(text, &range, number < *range.start()));
    }
    // `-0` passes as in range; keep a plain zero, which prints and hashes as one.
    Ok(number + 0.0)
}

/// Returns `text` as a number of pixels: a multiple of `multiple`, at most `max`.
///
/// # Errors
/// A problem that names the nearest sizes that would do.
pub(super) fn pixels(text: &str, multiple: u32, max: u32) -> Result<u32, Problem> {
    let multiple = u64::from(multiple.max(1));
    let largest = (u64::from(max) / multiple * multiple).max(multiple);
    match whole(text, multiple..=largest) {
        Ok(number) if number.is_multiple_of(multiple) => Ok(u32::try_from(number).expect("at most `max`, a u32")),
        Ok(number) => {
            let below = number / multiple * multiple;
            let hint = format!("use {below} or {}", below + multiple);
            Err(Problem::new(format!("`{text}` is not a multiple of {multiple}"), hint))
        }
        Err(problem) if all_digits(text) && text.parse::<u64>().map_or(true, |number| number > largest) => {
            Err(Problem { hint: format!("use {largest} or less: memory grows with the area"), ..problem })
        }
        Err(problem) => Err(problem),
    }
}

/// Returns the problem of a number outside of `range`, `below` it or above.
fn out_of_range<T: std::fmt::Display>(text: &str, range: &RangeInclusive<T>, below: bool) -> Problem {
    let (from, to) = (range.start(), range.end());
    let hint = if below { format!("use {from} or more") } else { format!("use {to} or less") };
    Problem::new(format!("`{}` is not between {from} and {to}", shown(text)), hint)
}

/// Returns what is wrong with a text that is no row of ASCII digits, by the form it has.
fn not_whole(text: &str, range: &RangeInclusive<u64>) -> Problem {
    let shown_text = shown(text);
    if text.strip_prefix('-').is_some_and(all_digits) {
        return out_of_range(text, range, true);
    }
    if shortened_by_excel(text) {
        let hint = "format the column as text before typing the numbers, or leave the cell empty";
        return Problem::new(format!("`{shown_text}` has lost digits: Excel has shortened this number"), hint);
    }
    let hint = decimal_zero(text)
        .map(|plain| format!("write `{plain}` (pandas writes `{shown_text}` where a column has empty cells)"))
        .or_else(|| from_hex(text).map(|number| format!("write it in decimal digits: `{number}`")))
        .or_else(|| without_separators(text).map(|plain| format!("write it without separators: `{plain}`")))
        .or_else(|| other_digits(text))
        .unwrap_or_else(|| format!("use digits only: a number from {} to {}", range.start(), range.end()));
    Problem::new(format!("`{shown_text}` is not a whole number"), hint)
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether `text` has the form in which Excel shows and saves long numbers: `1.23457E+15`.
fn shortened_by_excel(text: &str) -> bool {
    let Some((digits, exponent)) = text.split_once("E+") else { return false };
    let (first, rest) = digits.split_once(['.', ',']).unwrap_or((digits, "0"));
    first.len() == 1 && all_digits(first) && all_digits(rest) && all_digits(exponent)
}

/// Returns `3` for `3.0`.
fn decimal_zero(text: &str) -> Option<&str> {
    let (whole, zeros) = text.split_once('.')?;
    (all_digits(whole) && zeros.bytes().all(|byte| byte == b'0')).then_some(whole)
}

/// Returns 31 for `0x1F`.
fn from_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?, 16).ok()
}

/// Returns `1000` for `1,000`, `1 000`, `1_000` and `1'000`.
fn without_separators(text: &str) -> Option<String> {
    let mut groups = text.split([',', ' ', '_', '\'', '\u{a0}', '\u{202f}']);
    let first = groups.next().filter(|first| all_digits(first) && first.len() <= 3)?;
    let rest: Vec<&str> = groups.collect();
    let grouped = !rest.is_empty() && rest.iter().all(|group| all_digits(group) && group.len() == 3);
    grouped.then(|| first.to_string() + &rest.concat())
}

/// Returns the hint for a number in the digits of another script, such as `١٢` or `１２`.
fn other_digits(text: &str) -> Option<String> {
    let other = !text.is_ascii() && text.chars().all(|character| character.is_numeric() || ".,-+".contains(character));
    other.then(|| "write it in the digits 0 to 9".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole_error(text: &str) -> (String, String) {
        let problem = whole(text, 1..=1000).expect_err(text);
        (problem.message, problem.hint)
    }

    #[test]
    fn plain_digits_are_whole_numbers() {
        assert_eq!(whole("007", 0..=9), Ok(7));
        assert_eq!(whole("18446744073709551615", 0..=u64::MAX), Ok(u64::MAX));
        assert!(whole("18446744073709551616", 0..=u64::MAX).is_err());
        assert!(whole("1000", 1..=1000).is_ok() && whole("1001", 1..=1000).is_err() && whole("0", 1..=1000).is_err());
    }

    #[test]
    fn whole_numbers_of_floats_are_plain() {
        let texts = ["20.0", "2e1", "-1.0", "7", "7.5", "1e300", "18446744073709551615", "NaN", "inf", "-0.0", "x"];
        let plain = ["20", "20", "-1", "7", "7.5", "1e300", "18446744073709551615", "NaN", "inf", "0", "x"];
        assert_eq!(texts.map(plain_whole), plain);
    }

    #[test]
    fn hints_follow_the_form_of_the_text() {
        let hint = |text| whole_error(text).1;
        assert_eq!(hint("0x1F"), "write it in decimal digits: `31`");
        assert_eq!(hint("20.0"), "write `20` (pandas writes `20.0` where a column has empty cells)");
        assert_eq!(hint("1,000"), "write it without separators: `1000`");
        assert_eq!(hint("١٢"), "write it in the digits 0 to 9");
        assert_eq!(hint("1e3"), "use digits only: a number from 1 to 1000");
        assert_eq!(hint("+5"), "use digits only: a number from 1 to 1000");
        assert_eq!(whole_error("-8").0, "`-8` is not between 1 and 1000");
        assert_eq!(whole_error("1.23457E+15").0, "`1.23457E+15` has lost digits: Excel has shortened this number");
    }

    #[test]
    fn real_numbers_are_finite_and_in_range() {
        assert_eq!(real("7.5", 0.0..=1000.0), Ok(7.5));
        assert_eq!(real("1e2", 0.0..=1000.0), Ok(100.0));
        assert!(real("-0", 0.0..=1.0).is_ok_and(f64::is_sign_positive));
        let message = |text| real(text, 0.0..=1000.0).expect_err(text).message;
        assert_eq!(message("-1"), "`-1` is not between 0 and 1000");
        assert_eq!(message("NaN"), "`NaN` is not a finite number");
        assert_eq!(message("1e999"), "`1e999` is not a finite number");
        assert_eq!(real("7,5", 0.0..=1.0).expect_err("comma").hint, "write a decimal point: `7.5`");
        assert_eq!(real("high", 0.0..=1.0).expect_err("word").hint, "use a number from 0 to 1");
    }

    #[test]
    fn sizes_name_the_nearest_that_would_do() {
        assert_eq!(pixels("512", 8, 4096), Ok(512));
        let problem = |text| {
            let problem = pixels(text, 8, 4100).expect_err(text);
            (problem.message, problem.hint)
        };
        assert_eq!(problem("513"), ("`513` is not a multiple of 8".into(), "use 512 or 520".into()));
        assert_eq!(problem("0"), ("`0` is not between 8 and 4096".into(), "use 8 or more".into()));
        assert_eq!(problem("-8").1, "use 8 or more");
        assert_eq!(problem("4097").1, "use 4096 or less: memory grows with the area");
        assert_eq!(problem("99999999999999999999").1, "use 4096 or less: memory grows with the area");
        assert_eq!(problem("wide").0, "`wide` is not a whole number");
    }

    #[test]
    fn range_ends_that_are_no_multiples_never_appear_in_hints() {
        for value in 1..5000u32 {
            if let Err(problem) = pixels(&value.to_string(), 64, 1000) {
                for number in
                    problem.hint.split(|character: char| !character.is_ascii_digit()).filter(|n| !n.is_empty())
                {
                    assert!(pixels(number, 64, 1000).is_ok(), "{value}: {}", problem.hint);
                }
            }
        }
    }
}
