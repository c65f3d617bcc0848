//! Image bytes and metadata on disk. Writes files.
