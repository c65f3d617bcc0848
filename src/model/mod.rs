//! A model folder → `ModelSpec`: configs and graph signatures, no tensors. Reads files.
