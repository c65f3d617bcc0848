//! How many lanes pay on a device: twice as many, as long as they fit into memory and make images faster.

use crate::error::{OUT_OF_MEMORY, Result};

/// Fewest lanes that are tried: an image with guidance takes two.
const FEWEST: usize = 2;
/// Most lanes that are tried.
const MOST: usize = 128;
/// What twice the lanes must gain: below this they only cost memory and a longer tail.
const WORTHWHILE: f64 = 1.03;

/// What was measured of one number of lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Lanes of a call.
    pub lanes: usize,
    /// Seconds of a call.
    pub seconds: f64,
}

impl Measured {
    /// Returns the lanes done in a second.
    pub fn rate(&self) -> f64 {
        self.lanes as f64 / self.seconds.max(1e-9)
    }
}

/// Measures calls of 2, 4, 8, … lanes with `seconds`, which gives the seconds that one takes, until memory runs out or more lanes
/// gain too little. Returns all that worked; the last one is the number that pays.
///
/// # Errors
/// Those of `seconds`, but for memory that runs out with more than the fewest lanes.
pub fn find_lanes(seconds: &mut dyn FnMut(usize) -> Result<f64>) -> Result<Vec<Measured>> {
    let mut measured = vec![Measured { lanes: FEWEST, seconds: seconds(FEWEST)? }];
    while let Some(last) = measured.last().filter(|last| last.lanes < MOST) {
        let lanes = 2 * last.lanes;
        let next = match seconds(lanes) {
            Ok(seconds) => Measured { lanes, seconds },
            Err(error) if error.code() == OUT_OF_MEMORY => {
                // What that call had got by then, one that works gives back.
                seconds(FEWEST)?;
                break;
            }
            Err(error) => return Err(error),
        };
        if next.rate() < WORTHWHILE * last.rate() {
            break;
        }
        measured.push(next);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    /// A device where a call takes `overhead` and a second a lane beyond the first `free`, and `most` lanes fit.
    fn found(overhead: f64, free: usize, most: usize) -> (usize, Vec<usize>) {
        let mut tried = Vec::new();
        let mut seconds = |lanes: usize| {
            tried.push(lanes);
            match lanes > most {
                true => Err(Error::new(ErrorKind::Unexpected, OUT_OF_MEMORY, "a double")),
                false => Ok(overhead + lanes.max(free) as f64),
            }
        };
        let measured = find_lanes(&mut seconds).expect("the fewest fit");
        (measured.last().expect("one worked").lanes, tried)
    }

    #[test]
    fn lanes_are_doubled_as_long_as_they_pay() {
        assert_eq!(found(0.0, 16, 1000), (16, vec![2, 4, 8, 16, 32]), "16 lanes take as long as one");
        assert_eq!(found(0.0, 1, 1000), (2, vec![2, 4]), "no gain at all");
        assert_eq!(found(0.4, 1, 1000).0, 8, "5 % for 4 to 8, 2 % for 8 to 16");
        assert_eq!(found(1e9, 1, 100_000).0, MOST);
    }

    #[test]
    fn lanes_that_do_not_fit_are_not_taken() {
        assert_eq!(found(0.0, 64, 20), (16, vec![2, 4, 8, 16, 32, 2]));
        let broken = find_lanes(&mut |_| Err(Error::new(ErrorKind::Unexpected, OUT_OF_MEMORY, "a double")));
        assert_eq!(broken.expect_err("not even the fewest").code(), OUT_OF_MEMORY);
    }
}
