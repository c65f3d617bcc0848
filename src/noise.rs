//! Seeded Gaussian noise, the same numbers as torch gives. Pure.
