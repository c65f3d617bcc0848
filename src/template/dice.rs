//! Random numbers that a seed gives again on every machine and in every version: the bytes of a BLAKE3 stream.

/// Draws from a stream that depends on nothing but the numbers it was made of.
pub struct Dice(blake3::OutputReader);

impl Dice {
    /// Returns the dice of these numbers, in order.
    pub fn new(numbers: &[u64]) -> Dice {
        let mut hasher = blake3::Hasher::new_derive_key("nightshift 2026 template dice");
        numbers.iter().for_each(|number| {
            hasher.update(&number.to_le_bytes());
        });
        Dice(hasher.finalize_xof())
    }

    /// Returns a number below `limit`, which is not 0, all equally likely.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Numbers of the last, incomplete round are thrown again.
        let rounds = u64::MAX - u64::MAX % limit;
        loop {
            let number = self.next();
            if number < rounds {
                return number % limit;
            }
        }
    }

    /// Returns a place in `weights`, as likely as its weight; all are equally likely where no weight is above 0.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let sum: f64 = weights.iter().sum();
        if sum <= 0.0 {
            return self.below(weights.len() as u64) as usize;
        }
        let mut left = sum * (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        for (at, weight) in weights.iter().enumerate() {
            if left < *weight {
                return at;
            }
            left -= weight;
        }
        // Rounding may leave a rest; the last that can be drawn takes it.
        weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}
