//! Flags for outputs in buckets.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::error::{Error, ErrorKind};
use crate::remote::BucketOptions;
use crate::run::{address, default_spool};

/// Flags of an output in a bucket.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --out in a bucket (docs/buckets.md)")]
pub struct BucketArgs {
    /// Folder where files wait to be uploaded; keep it from start to start  [default: one for each URL in $XDG_CACHE_HOME/nightshift
    /// or ~/.cache/nightshift]
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_SPOOL")]
    pub spool: Option<PathBuf>,
    /// Bytes that may wait there before the run waits too, such as 500MiB
    #[arg(long, value_name = "SIZE", default_value = "20GiB", value_parser = size, env = "NIGHTSHIFT_SPOOL_LIMIT")]
    pub spool_limit: u64,
    /// When all is made, give up with exit code 13 if nothing could be uploaded for so long; the next start goes on
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration, env = "NIGHTSHIFT_UPLOAD_TIMEOUT")]
    pub upload_timeout: Duration,
}

/// Reads a number of bytes: `1048576`, `500MiB`, `20G`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let units = ["", "K", "M", "G", "T"];
    let unit = unit.trim().trim_end_matches(['B', 'b']).trim_end_matches('i').to_ascii_uppercase();
    let power = units.iter().position(|known| *known == unit);
    let bytes = number.parse::<u64>().ok().zip(power).and_then(|(number, power)| number.checked_mul(1 << (10 * power)));
    bytes.ok_or_else(|| "expected a number of bytes, such as 500MiB or 20GiB".to_string())
}

impl BucketArgs {
    /// Returns the folder that the run works on, and the bucket, for an output named `out`.
    pub(super) fn into_options(self, out: PathBuf) -> Result<(PathBuf, Option<BucketOptions>), Error> {
        let Some(url) = address(&out)? else {
            return match self.spool {
                None => Ok((out, None)),
                Some(_) => Err(Error::new(ErrorKind::Usage, "spool", "--spool is for outputs in buckets")
                    .hint("leave it out, or give an address such as s3://bucket/prefix as --out")),
            };
        };
        let spool = self.spool.map_or_else(|| default_spool(&url), Ok)?;
        let BucketArgs { spool_limit, upload_timeout, .. } = self;
        Ok((spool, Some(BucketOptions { url, spool_limit, upload_timeout })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let read = ["1048576", "500MiB", "20G", "1 kb", "3TiB"].map(size);
        assert_eq!(read, [1 << 20, 500 << 20, 20 << 30, 1 << 10, 3 << 40].map(Ok));
        assert!(["", "GiB", "-1", "5 stones", "99999999999T"].iter().all(|text| size(text).is_err()));
    }
}
