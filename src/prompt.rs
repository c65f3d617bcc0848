//! Text → token ids. Pure.
