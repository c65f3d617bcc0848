//! Where a bucket is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A place in a bucket: everything below a prefix, or one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketUrl {
    scheme: Scheme,
    bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    prefix: String,
}

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Amazon S3, or whatever speaks its language.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

const SCHEMES: [(Scheme, &str); 3] = [(Scheme::S3, "s3"), (Scheme::Gcs, "gs"), (Scheme::Azure, "az")];

impl BucketUrl {
    /// Returns whether a path was meant as an address of a bucket, right or wrong.
    pub fn is_meant(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.contains("://"))
    }

    /// Returns whose bucket it is.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the bucket's address alone.
    pub fn bucket_url(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.bucket)
    }

    /// Returns the address of the object with this `key`; with an empty one, the bucket's.
    pub fn address_of(&self, key: &str) -> String {
        if key.is_empty() { self.bucket_url() } else { format!("{}/{key}", self.bucket_url()) }
    }

    /// Returns the key of the object that has `name` below the prefix; with an empty name, the prefix itself.
    pub fn key(&self, name: &str) -> String {
        let parts = [&*self.prefix, name].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("/")
    }

    /// Returns the name below the prefix of the object with this `key`.
    pub fn name<'a>(&self, key: &'a str) -> Option<&'a str> {
        match &*self.prefix {
            "" => Some(key),
            prefix => key.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    /// Returns a name for a folder of this machine that belongs to this place.
    pub fn folder_name(&self) -> String {
        let text = self.to_string();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let readable: String = text.chars().map(plain).take(80).collect();
        format!("{readable}-{:.12}", blake3::hash(text.as_bytes()).to_hex().as_str())
    }

    /// Returns the last part of the address.
    pub fn file_name(&self) -> &str {
        self.prefix.rsplit('/').next().unwrap_or_default()
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        SCHEMES.iter().find(|(scheme, _)| *scheme == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for BucketUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("expected an address such as s3://bucket/prefix")?;
        let scheme = SCHEMES.iter().find(|(_, name)| *name == scheme).map(|(scheme, _)| *scheme);
        let scheme = scheme.ok_or("expected s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("the name of the bucket is missing".to_string());
        }
        let prefix = prefix.trim_matches('/');
        if prefix.split('/').any(|part| part.is_empty() && !prefix.is_empty() || part == "." || part == "..") {
            return Err("the prefix has an empty part, `.` or `..`".to_string());
        }
        Ok(BucketUrl { scheme, bucket: bucket.to_string(), prefix: prefix.to_string() })
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address_of(&self.prefix))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let url: BucketUrl = "s3://night/runs/cats/".parse().unwrap();
        assert_eq!((url.to_string().as_str(), url.bucket_url().as_str()), ("s3://night/runs/cats", "s3://night"));
        assert_eq!(url.key("images/0.png"), "runs/cats/images/0.png");
        assert_eq!(url.name("runs/cats/images/0.png"), Some("images/0.png"));
        assert_eq!((url.name("runs/catsup/0.png"), url.file_name()), (None, "cats"));
        let whole: BucketUrl = "gs://night".parse().unwrap();
        assert_eq!((whole.key("a").as_str(), whole.name("a/b"), whole.key("").as_str()), ("a", Some("a/b"), ""));
        assert_ne!(url.folder_name(), "s3://night/runs-cats".parse::<BucketUrl>().unwrap().folder_name());
        for wrong in ["s3:/night", "ftp://night/x", "s3://", "s3:///x", "s3://night/a//b", "s3://night/../b", "out"] {
            assert!(wrong.parse::<BucketUrl>().is_err(), "{wrong}");
        }
        assert!(BucketUrl::is_meant(Path::new("s3://a/b")) && !BucketUrl::is_meant(Path::new("out/a:b")));
    }
}
