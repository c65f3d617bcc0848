//! What stands in for a bucket in a build without the feature `buckets`: it cannot be opened, so nothing else can be called.

use std::convert::Infallible;
use std::ops::Range;

use bytes::Bytes;

use super::objects::{Object, Small, Version};
use super::url::BucketUrl;
use crate::error::{Error, ErrorKind, Location, Result};

/// A place in a bucket, of which there are none.
pub struct Store(Infallible);

/// One part of a large object.
pub struct Part {}

#[allow(missing_docs, reason = "none of these can be called; `store` has the texts")]
#[allow(clippy::missing_errors_doc, reason = "as above")]
impl Store {
    /// Says that there are no buckets.
    pub fn open(url: &BucketUrl) -> Result<Store> {
        Err(Error::new(ErrorKind::Usage, "no_buckets", "this nightshift was built without buckets")
            .at(Location::file(url.to_string()))
            .hint("build it with `cargo build --release`, without --no-default-features"))
    }

    pub fn url(&self) -> &BucketUrl {
        match self.0 {}
    }

    pub fn list(&self, _folder: &str) -> Result<Vec<Object>> {
        match self.0 {}
    }

    pub fn top(&self) -> Result<Vec<String>> {
        match self.0 {}
    }

    pub fn get(&self, _name: &str) -> Result<Option<Small>> {
        match self.0 {}
    }

    pub fn get_range(&self, _name: &str, _range: Range<u64>) -> Result<Option<Bytes>> {
        match self.0 {}
    }

    pub fn download(&self, _name: &str, _take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self.0 {}
    }

    pub fn put(&self, _name: &str, _bytes: Bytes) -> Result<()> {
        match self.0 {}
    }

    pub fn put_if(&self, _name: &str, _bytes: Bytes, _before: Option<&Version>) -> Result<Option<Version>> {
        match self.0 {}
    }

    pub fn delete(&self, _name: &str) -> Result<()> {
        match self.0 {}
    }

    pub fn rename(&self, _from: &str, _to: &str) -> Result<bool> {
        match self.0 {}
    }

    pub fn begin(&self, _name: &str) -> Result<String> {
        match self.0 {}
    }

    pub fn put_part(&self, _name: &str, _id: &str, _at: usize, _bytes: Bytes) -> Result<Part> {
        match self.0 {}
    }

    pub fn complete(&self, _name: &str, _id: &str, _parts: Vec<Part>) -> Result<()> {
        match self.0 {}
    }

    pub fn abort(&self, _name: &str, _id: &str) -> Result<()> {
        match self.0 {}
    }
}
