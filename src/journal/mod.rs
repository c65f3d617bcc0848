//! What is done, crash-safe: an append-only file of checksummed records. Writes files.
