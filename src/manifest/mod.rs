//! Manifest files → validated jobs, with every bad cell reported at its place. Reads files.
