//! Which file holds which image: shards of a fixed number of images in manifest order, in one of three layouts.
//!
//! A shard is what one worker makes, and what becomes visible as one: a folder with its metadata, a tar, a Parquet file. Which
//! shard an image belongs to follows from its place in the manifest at the time it is first made, and stays so; names come
//! from keys and never from words of a prompt.

use clap::ValueEnum;

use super::{imagefolder, webdataset};

/// How images are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `images/00000/KEY.png` and `metadata.parquet` in each folder.
    #[default]
    Imagefolder,
    /// `000000.tar`: picture, prompt (`txt`) and parameters (`json`) of each image.
    Webdataset,
    /// `data/train-00000-of-00042.parquet`: parameters, and the picture itself in the column `image`.
    Parquet,
}

impl Format {
    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Imagefolder => "imagefolder",
            Format::Webdataset => "webdataset",
            Format::Parquet => "parquet",
        }
    }

    /// Returns the layout of that name.
    pub fn named(name: &str) -> Option<Format> {
        [Format::Imagefolder, Format::Webdataset, Format::Parquet].into_iter().find(|format| format.name() == name)
    }

    /// Returns the layout in which an image or a shard's file has the path `path`.
    pub fn of(path: &str) -> Option<Format> {
        match path {
            _ if path.starts_with("images/") => Some(Format::Imagefolder),
            _ if path.starts_with("data/train-") => Some(Format::Parquet),
            _ if path.split('/').next().is_some_and(|first| first.ends_with(".tar")) => Some(Format::Webdataset),
            _ => None,
        }
    }

    /// Returns the shard of the image at `path`, which [`Layout::image_path`] made.
    pub fn shard_of_image(self, path: &str) -> Option<u32> {
        let (folder, _) = path.rsplit_once('/')?;
        let number = match self {
            Format::Imagefolder => folder.strip_prefix("images/")?,
            Format::Webdataset => folder.strip_suffix(".tar")?,
            Format::Parquet => folder.strip_prefix("data/train-")?,
        };
        number.parse().ok()
    }

    /// Returns the shard whose file is at `path`, which [`Layout::shard_path`] made.
    pub fn shard_of_file(self, path: &str) -> Option<u32> {
        let number = match self {
            Format::Imagefolder => path.strip_prefix("images/")?.strip_suffix("/metadata.parquet")?,
            Format::Webdataset => path.strip_suffix(".tar")?,
            Format::Parquet => path.strip_prefix("data/train-")?.strip_suffix(".parquet")?.split_once("-of-")?.0,
        };
        number.parse().ok()
    }

    /// Returns the key of the image at `path`, if it is one that [`Layout::image_path`] makes.
    pub fn key_of_image(self, path: &str) -> Option<String> {
        self.shard_of_image(path)?;
        let (stem, _) = path.rsplit_once('/')?.1.rsplit_once('.')?;
        let key = if self == Format::Parquet { stem.to_string() } else { imagefolder::key_of(stem) };
        let is_ours = match self {
            Format::Imagefolder => imagefolder::file_stem(&key) == stem,
            Format::Webdataset => webdataset::sample_name(&key) == stem,
            Format::Parquet => true,
        };
        (is_ours && !key.is_empty()).then_some(key)
    }

    /// Returns whether images wait in the spool until their shard is complete.
    pub fn is_packed(self) -> bool {
        self != Format::Imagefolder
    }
}

/// Layout of an output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// How images are kept.
    pub format: Format,
    /// End of a picture's name, such as `png`.
    pub extension: &'static str,
    /// Images of a shard.
    pub shard_size: u32,
}

impl Layout {
    /// Returns the shard of the `ordinal`-th image.
    pub fn shard_of(&self, ordinal: u64) -> u32 {
        u32::try_from(ordinal / u64::from(self.shard_size.max(1))).expect("fewer images than fit into memory")
    }

    /// Returns the path of the image `key` relative to `OUT`; in a packed layout, of its place in the shard's file.
    pub fn image_path(&self, shard: u32, key: &str) -> String {
        match self.format {
            Format::Imagefolder => format!("images/{shard:05}/{}.{}", imagefolder::file_stem(key), self.extension),
            Format::Webdataset => format!("{shard:06}.tar/{}.{}", webdataset::sample_name(key), self.extension),
            Format::Parquet => format!("data/train-{shard:05}/{key}.{}", self.extension),
        }
    }

    /// Returns the shard that [`Layout::image_path`] has put into `path`.
    pub fn shard_in(&self, path: &str) -> Option<u32> {
        self.format.shard_of_image(path)
    }

    /// Returns the path of a shard's file relative to `OUT`: its metadata, tar or Parquet file. `shards` is how many there are.
    pub fn shard_path(&self, shard: u32, shards: u32) -> String {
        match self.format {
            Format::Imagefolder => format!("images/{shard:05}/metadata.parquet"),
            Format::Webdataset => format!("{shard:06}.tar"),
            Format::Parquet => format!("data/train-{shard:05}-of-{shards:05}.parquet"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_image_is_found_in_its_shard() {
        for format in [Format::Imagefolder, Format::Webdataset, Format::Parquet] {
            let layout = Layout { format, extension: "png", shard_size: 1000 };
            assert_eq!((layout.shard_of(999), layout.shard_of(1000)), (0, 1));
            let path = layout.image_path(123_456, "cat_test");
            assert_eq!(layout.shard_in(&path), Some(123_456), "{path}");
            assert_eq!(layout.shard_in("elsewhere/x.png"), None);
            assert_eq!((Format::of(&path), format.key_of_image(&path)), (Some(format), Some("cat_test".to_string())));
            let file = layout.shard_path(123_456, 200_000);
            assert_eq!((Format::of(&file), format.shard_of_file(&file)), (Some(format), Some(123_456)), "{file}");
            assert_eq!((Format::named(format.name()), format.shard_of_file(&path)), (Some(format), None));
        }
    }

    #[test]
    fn names_that_no_key_has_are_not_taken_for_images() {
        for path in ["images/00000/test.png", "images/00000/.png", "images/00000/x", "images/a/b/x.png", "images/x.png"]
        {
            assert_eq!(Format::Imagefolder.key_of_image(path), None, "{path}");
        }
    }

    #[test]
    fn paths_are_those_that_loaders_expect() {
        let layout = |format| Layout { format, extension: "jpg", shard_size: 10 };
        let paths = |format| (layout(format).image_path(3, "a_test"), layout(format).shard_path(3, 42));
        let own = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(paths(Format::Imagefolder), own("images/00003/a_test~.jpg", "images/00003/metadata.parquet"));
        assert_eq!(paths(Format::Webdataset), own("000003.tar/a_test.jpg", "000003.tar"));
        assert_eq!(paths(Format::Parquet), own("data/train-00003/a_test.jpg", "data/train-00003-of-00042.parquet"));
    }

    #[test]
    fn samples_are_not_called_what_loaders_take_for_hidden() {
        let layout = Layout { format: Format::Webdataset, extension: "png", shard_size: 10 };
        assert_eq!(layout.image_path(0, "__x__"), "000000.tar/~__x__.png");
        assert_eq!(layout.image_path(0, "_x"), "000000.tar/_x.png");
        let key = |name| Format::Webdataset.key_of_image(&format!("000000.tar/{name}.png"));
        assert_eq!((key("~__x__"), key("_x")), (Some("__x__".to_string()), Some("_x".to_string())));
        assert_eq!((key("__x__"), key("~x")), (None, None));
    }
}
