//! A bucket, as calls that wait: the only place that knows `object_store`, and the async runtime that it needs.
//!
//! Each call is tried again for a few seconds; whoever has longer patience calls again.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{
    ClientConfigKey, Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, RetryConfig, UpdateVersion,
};
use tokio::runtime::Runtime;

use super::objects::{Object, Small, Version};
use super::url::{BucketUrl, Scheme};
use crate::error::{Error, ErrorKind, Location, Result};

/// How long one call is tried again.
const RETRYING: Duration = Duration::from_secs(15);
/// How often, at most.
const TRIES: usize = 4;
/// How long one request may take: a part of a large file on a slow line.
const REQUEST: &str = "120s";
/// How long a connection may take to come about.
const CONNECT: &str = "5s";
/// Size of the pieces in which objects are read.
const PIECE: u64 = 16 << 20;

/// A place in a bucket.
pub struct Store {
    runtime: Runtime,
    objects: Arc<dyn ObjectStore>,
    parts: Arc<dyn MultipartStore>,
    url: BucketUrl,
}

/// One part of a large object that is there.
pub struct Part(PartId);

impl Store {
    /// Opens the bucket that `url` names, with the credentials that the environment gives. Nothing is asked of it yet.
    ///
    /// # Errors
    /// Kind `Storage`: credentials or settings make no sense.
    pub fn open(url: &BucketUrl) -> Result<Store> {
        install_tls();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Error::storage("start threads for", url.to_string(), error))?;
        // Inside of the runtime: clients may look for it when they are made.
        let _inside = runtime.enter();
        let (objects, parts) = build(url).map_err(|error| failed("open", url, "", error))?;
        drop(_inside);
        Ok(Store { runtime, objects, parts, url: url.clone() })
    }

    /// Returns the place.
    pub fn url(&self) -> &BucketUrl {
        &self.url
    }

    /// Returns the objects below `folder`, all levels down.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn list(&self, folder: &str) -> Result<Vec<Object>> {
        let (mut found, mut folders) = (Vec::new(), vec![self.key(folder)]);
        while let Some(folder) = folders.pop() {
            let (objects, below) = self.level(&folder)?;
            found.extend(objects);
            folders.extend(below);
        }
        Ok(found)
    }

    /// Returns the names of what is directly below the prefix, objects and folders.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn top(&self) -> Result<Vec<String>> {
        let (objects, below) = self.level(&self.key(""))?;
        let folders = below.iter().filter_map(|key| key.parts().next_back().map(|part| part.as_ref().to_string()));
        Ok(objects.into_iter().map(|object| object.name).chain(folders.collect::<Vec<_>>()).collect())
    }

    fn level(&self, folder: &Key) -> Result<(Vec<Object>, Vec<Key>)> {
        let prefix = (!folder.as_ref().is_empty()).then_some(folder);
        let listed = self.wait(self.objects.list_with_delimiter(prefix));
        let listed = listed.map_err(|error| failed("list", &self.url, folder.as_ref(), error))?;
        let object = |meta: object_store::ObjectMeta| {
            let name = self.url.name(meta.location.as_ref())?.to_string();
            Some(Object { name, bytes: meta.size })
        };
        Ok((listed.objects.into_iter().filter_map(object).collect(), listed.common_prefixes))
    }

    /// Returns a whole object that is small, or `None` where there is none.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn get(&self, name: &str) -> Result<Option<Small>> {
        let read = async {
            let found = self.objects.get(&self.key(name)).await?;
            let (tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
            let modified = SystemTime::from(found.meta.last_modified);
            Ok(Small { bytes: found.bytes().await?.into(), version: Version { tag, version }, modified })
        };
        self.found("read", name, self.wait(read))
    }

    /// Returns the bytes of an object from `range.start` to `range.end`, or `None` where there is none.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.found("read", name, self.wait(self.objects.get_range(&self.key(name), range)))
    }

    /// Reads an object piece by piece into `take`; returns whether there is one.
    ///
    /// # Errors
    /// Kind `Storage`, or what `take` says.
    pub fn download(&self, name: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let Some(meta) = self.found("read", name, self.wait(self.objects.head(&self.key(name))))? else {
            return Ok(false);
        };
        let mut at = 0;
        while at < meta.size {
            let piece = self.get_range(name, at..(at + PIECE).min(meta.size))?;
            let Some(piece) = piece.filter(|piece| !piece.is_empty()) else { return Ok(false) };
            at += piece.len() as u64;
            take(&piece)?;
        }
        Ok(true)
    }

    /// Writes a whole object.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let put = self.wait(self.objects.put(&self.key(name), bytes.into()));
        put.map(drop).map_err(|error| self.failed("write", name, error))
    }

    /// Writes an object if it still is what it was, or is not there where `before` is `None`; returns its new version, or
    /// `None` where it is another.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn put_if(&self, name: &str, bytes: Bytes, before: Option<&Version>) -> Result<Option<Version>> {
        let update = |Version { tag, version }: &Version| {
            PutMode::Update(UpdateVersion { e_tag: tag.clone(), version: version.clone() })
        };
        let mode = before.map_or(PutMode::Create, update);
        match self.wait(self.objects.put_opts(&self.key(name), bytes.into(), mode.into())) {
            Ok(put) => Ok(Some(Version { tag: put.e_tag, version: put.version })),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(None),
            Err(error) => Err(self.failed("write", name, error)),
        }
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn delete(&self, name: &str) -> Result<()> {
        let deleted = self.wait(self.objects.delete(&self.key(name)));
        self.found("remove", name, deleted).map(drop)
    }

    /// Renames an object inside of the bucket; returns whether there is one.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let copied = self.wait(self.objects.copy(&self.key(from), &self.key(to)));
        let there = self.found("copy", from, copied)?.is_some();
        if there {
            self.delete(from)?;
        }
        Ok(there)
    }

    /// Begins an object that comes in parts; returns what it is called until it is whole.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn begin(&self, name: &str) -> Result<String> {
        self.wait(self.parts.create_multipart(&self.key(name))).map_err(|error| self.failed("write", name, error))
    }

    /// Writes the part number `at`, from 0. All but the last are of one size.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn put_part(&self, name: &str, id: &str, at: usize, bytes: Bytes) -> Result<Part> {
        let put = self.wait(self.parts.put_part(&self.key(name), &id.to_string(), at, bytes.into()));
        put.map(Part).map_err(|error| self.failed("write", name, error))
    }

    /// Makes the parts one object, which is to be seen from now on.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn complete(&self, name: &str, id: &str, parts: Vec<Part>) -> Result<()> {
        let parts = parts.into_iter().map(|part| part.0).collect();
        let done = self.wait(self.parts.complete_multipart(&self.key(name), &id.to_string(), parts));
        done.map(drop).map_err(|error| self.failed("complete", name, error))
    }

    /// Gives up an object that came in parts; what is there of it goes.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn abort(&self, name: &str, id: &str) -> Result<()> {
        let aborted = self.wait(self.parts.abort_multipart(&self.key(name), &id.to_string()));
        self.found("give up", name, aborted).map(drop)
    }

    fn key(&self, name: &str) -> Key {
        Key::from(self.url.key(name))
    }

    fn wait<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        self.runtime.block_on(work)
    }

    fn found<T>(&self, doing: &str, name: &str, result: object_store::Result<T>) -> Result<Option<T>> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound { source, .. }) if !is_missing_bucket(&source.to_string()) => Ok(None),
            Err(error) => Err(self.failed(doing, name, error)),
        }
    }

    fn failed(&self, doing: &str, name: &str, error: StoreError) -> Error {
        failed(doing, &self.url, &self.url.key(name), error)
    }
}

type Clients = (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>);

fn build(url: &BucketUrl) -> object_store::Result<Clients> {
    let retry = RetryConfig { max_retries: TRIES, retry_timeout: RETRYING, ..RetryConfig::default() };
    let address = url.bucket_url();
    let settings = [(ClientConfigKey::Timeout, REQUEST), (ClientConfigKey::ConnectTimeout, CONNECT)];
    Ok(match url.scheme() {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env().with_url(address).with_retry(retry);
            let mut builder = settings
                .into_iter()
                .fold(builder, |builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value));
            // Whoever gives such an endpoint means it.
            if is_plain_http(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]) {
                builder = builder.with_allow_http(true);
            }
            both(builder.build()?)
        }
        Scheme::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(address).with_retry(retry);
            let builder = settings
                .into_iter()
                .fold(builder, |builder, (key, value)| builder.with_config(GoogleConfigKey::Client(key), value));
            both(builder.build()?)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(address).with_retry(retry);
            let builder = settings
                .into_iter()
                .fold(builder, |builder, (key, value)| builder.with_config(AzureConfigKey::Client(key), value));
            both(builder.build()?)
        }
    })
}

fn both(store: impl ObjectStore + MultipartStore) -> Clients {
    let store = Arc::new(store);
    (store.clone(), store)
}

fn is_plain_http(variables: &[&str]) -> bool {
    let value = variables.iter().find_map(|name| std::env::var(name).ok());
    value.is_some_and(|value| value.starts_with("http://"))
}

/// rustls has no ciphers of its own.
fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails where another has installed some, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn is_missing_bucket(text: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"].iter().any(|it| text.contains(it))
}

/// Says what went wrong, in one line, and what to look at.
fn failed(doing: &str, url: &BucketUrl, key: &str, error: StoreError) -> Error {
    let text = causes(&error);
    let (code, hint) = match &error {
        _ if is_missing_bucket(&text) => ("bucket_missing", "make the bucket, or correct its name"),
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            ("bucket_denied", "look at the credentials and at what they allow: list, read, write and delete are needed")
        }
        _ => ("bucket", HINT),
    };
    Error::new(ErrorKind::Storage, code, format!("cannot {doing}: {text}"))
        .at(Location::file(url.address_of(key)))
        .hint(hint)
        .source(error)
}

const HINT: &str = "look at the network, the endpoint (AWS_ENDPOINT_URL) and the credentials in the environment (AWS_ACCESS_KEY_ID …, \
    GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY …)";

/// Joins an error's causes, of which the first often says least; of answers in XML and other long texts, the beginning.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // Most texts repeat those of their causes.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    let text = texts.join(": ");
    if text.chars().count() > 400 { text.chars().take(400).chain("…".chars()).collect() } else { text }
}
