//! A time at which to stop.

use std::time::Duration;

/// Reads a time of day or an instant, and returns how long it is until then.
pub(super) fn deadline(text: &str) -> Result<Duration, String> {
    until(text, &jiff::ZonedDateTime::now())
}

fn until(text: &str, now: &jiff::ZonedDateTime) -> Result<Duration, String> {
    let wrong = |error: jiff::Error| format!("expected a time such as `07:00` or `2026-11-27T07:00:00`: {error}");
    let zone = now.time_zone();
    // The instant first: a time of day is also read from one.
    let then = match text.parse::<jiff::civil::DateTime>() {
        Ok(then) => then.to_zoned_datetime(zone.clone()).map_err(wrong)?,
        Err(_) => {
            let time = text.parse::<jiff::civil::Time>().map_err(wrong)?;
            let today = now.date().to_datetime(time).to_zoned_datetime(zone.clone()).map_err(wrong)?;
            let tomorrow = || now.date().tomorrow()?.to_datetime(time).to_zoned_datetime(zone.clone());
            if today > *now { today } else { tomorrow().map_err(wrong)? }
        }
    };
    Duration::try_from(now.duration_until(&then)).map_err(|_| format!("`{text}` is over"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_next_time_of_that_name() {
        let now: jiff::ZonedDateTime = "2026-11-26T19:00:00[UTC]".parse().expect("a time");
        let hours = |text: &str| until(text, &now).map(|left| left.as_secs_f64() / 3600.0);
        assert_eq!(hours("07:00"), Ok(12.0));
        assert_eq!(hours("20:30"), Ok(1.5));
        assert_eq!(hours("2026-11-27T19:00:00"), Ok(24.0));
        assert!(hours("2026-11-26T18:00:00").is_err_and(|error| error.contains("is over")));
        assert!(hours("soon").is_err());
    }
}
