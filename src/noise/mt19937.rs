//! The Mersenne Twister, the engine of both torch's and numpy's generators.

/// The 32-bit Mersenne Twister of Matsumoto and Nishimura (1998), seeded as ATen and numpy seed it
/// (`init_genrand`).
pub(super) struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [0; 624];
        state[0] = seed;
        for j in 1..624 {
            let previous: u32 = state[j - 1];
            state[j] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(j as u32);
        }
        Mt19937 { state, next: 624 }
    }

    pub(super) fn next_u32(&mut self) -> u32 {
        if self.next == 624 {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for j in 0..624 {
            let mixed = (self.state[j] & 0x8000_0000) | (self.state[(j + 1) % 624] & 0x7fff_ffff);
            let twist = (mixed >> 1) ^ if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[j] = self.state[(j + 397) % 624] ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_published_one() {
        // The 10,000th number for seed 5489 is given by the C++ standard (rand.predef).
        let mut engine = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| engine.next_u32()).last(), Some(4_123_659_995));
    }
}
