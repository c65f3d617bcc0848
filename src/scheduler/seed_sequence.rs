//! numpy's `SeedSequence`, which turns a seed and a place into a seed of their own (O'Neill 2015, "Developing a seed_seq
//! alternative"; numpy 2.4 `bit_generator.pyx`).

/// Returns the first word of `SeedSequence(seed, spawn_key=spawn_key, pool_size=pool_size).generate_state(…)`. A pool of
/// more than the two words of a seed is assumed.
pub(super) fn state(seed: u64, spawn_key: &[u32], pool_size: usize) -> u32 {
    let pool = mix_entropy(&assembled(seed, spawn_key, pool_size), pool_size);
    let hash = 0x8b51_f9dd;
    let data = (pool[0] ^ hash).wrapping_mul(0x58f3_8dedu32.wrapping_mul(hash));
    data ^ (data >> 16)
}

/// Returns the seed's words, filled up to the pool's size before those of the spawn key, where there is one.
fn assembled(seed: u64, spawn_key: &[u32], pool_size: usize) -> Vec<u32> {
    let (low, high) = (seed as u32, (seed >> 32) as u32);
    let mut words = if high == 0 { vec![low] } else { vec![low, high] };
    if !spawn_key.is_empty() {
        words.resize(pool_size, 0);
        words.extend(spawn_key);
    }
    words
}

/// The hash whose constant changes with every use.
struct Hash(u32);

impl Hash {
    fn of(&mut self, value: u32) -> u32 {
        let value = value ^ self.0;
        self.0 = self.0.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(self.0);
        value ^ (value >> 16)
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let result = 0xca01_f9ddu32.wrapping_mul(x).wrapping_sub(0x4973_f715u32.wrapping_mul(y));
    result ^ (result >> 16)
}

fn mix_entropy(entropy: &[u32], pool_size: usize) -> Vec<u32> {
    let mut hash = Hash(0x43b0_d7e5);
    let mut pool: Vec<u32> = (0..pool_size).map(|i| hash.of(entropy.get(i).copied().unwrap_or(0))).collect();
    for from in 0..pool_size {
        for to in (0..pool_size).filter(|to| *to != from) {
            pool[to] = mix(pool[to], hash.of(pool[from]));
        }
    }
    for word in entropy.iter().skip(pool_size) {
        for to in &mut pool {
            *to = mix(*to, hash.of(*word));
        }
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_those_of_numpy() {
        assert_eq!(state(1234, &[], 24), 4_280_268_349);
        assert_eq!(state(1234, &[5, 3], 24), 1_860_635_963);
        assert_eq!(state(0x1_2345_6789_abcd, &[1, 1], 24), BIG);
    }

    /// `SeedSequence(0x123456789abcd, spawn_key=(1, 1), pool_size=24).generate_state(4)[0]`.
    const BIG: u32 = 2_178_146_763;
}
