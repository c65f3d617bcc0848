//! Single weights of a graph, by name: the few small tensors that are needed outside of the networks.

use std::io::{self, Read, Seek};
use std::path::Path;

use half::f16;

use super::graph_file::GraphFile;
use super::header::{Reader, Value, broken, open_reader, read_entry};
use super::signature::Dtype;
use crate::error::{Error, ErrorKind, Location, Result};

/// More values than any vector of a network has.
const MAX_VALUES: u64 = 1 << 20;

/// An initializer whose name ends as asked.
#[derive(Default)]
struct Tensor {
    name: String,
    dtype: Option<Dtype>,
    raw: Option<(u64, u64)>,
    floats: Option<(u64, u64)>,
    external: Vec<(String, String)>,
}

impl GraphFile {
    /// Returns the values of the only float vector among the weights whose name ends in `suffix`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn weights(&self, suffix: &str) -> Result<Vec<f32>> {
        let found = find(&self.path, suffix).and_then(|tensor| match tensor {
            Some(tensor) => tensor.values(&self.path).map(Some),
            None => Ok(None),
        });
        match found {
            Ok(Some(values)) => Ok(values),
            Ok(None) => Err(self
                .error(format!("the graph has no weights called `…{suffix}`"))
                .hint("optimizers rename weights: export the part again without them, as `onnx/export.py` does")),
            Err(error) => {
                Err(Error::new(ErrorKind::Model, "weights_unreadable", format!("cannot read the weights: {error}"))
                    .at(Location::file(&self.path))
                    .source(error))
            }
        }
    }
}

fn find(path: &Path, suffix: &str) -> io::Result<Option<Tensor>> {
    let (mut reader, length) = open_reader(path)?;
    let mut found = None;
    reader.message(length, |reader, number, value| {
        let (7, Value::Bytes { end }) = (number, value) else { return Ok(()) };
        reader.message(*end, |reader, number, value| {
            let (5, Value::Bytes { end }) = (number, value) else { return Ok(()) };
            let tensor = read_tensor(reader, *end)?;
            if tensor.name.ends_with(suffix) {
                found = Some(tensor);
            }
            Ok(())
        })
    })?;
    Ok(found)
}

/// Reads a `TensorProto` without its values.
fn read_tensor<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<Tensor> {
    let mut tensor = Tensor::default();
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (2, Value::Number(number)) => tensor.dtype = Some(Dtype::from_onnx(*number)),
            (4, Value::Bytes { end }) => tensor.floats = Some((reader.position(), *end)),
            (8, Value::Bytes { end }) => tensor.name = reader.string(*end)?,
            (9, Value::Bytes { end }) => tensor.raw = Some((reader.position(), *end)),
            (13, Value::Bytes { end }) => tensor.external.push(read_entry(reader, *end)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(tensor)
}

impl Tensor {
    fn values(&self, graph: &Path) -> io::Result<Vec<f32>> {
        let entry = |key: &str| self.external.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let number = |key: &str| entry(key).and_then(|text| text.parse::<u64>().ok());
        let (path, (start, end)) = match (entry("location"), self.raw.or(self.floats)) {
            (Some(name), _) => {
                let start = number("offset").unwrap_or(0);
                let length = number("length").ok_or_else(|| broken("the weights' length is not said"))?;
                (graph.with_file_name(name), (start, start.saturating_add(length)))
            }
            (None, Some(range)) => (graph.to_path_buf(), range),
            (None, None) => return Err(broken("the weights have no values")),
        };
        let bytes = read_range(&path, start, end)?;
        decode(&bytes, self.dtype.unwrap_or(Dtype::Float32))
    }
}

fn read_range(path: &Path, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = end.saturating_sub(start);
    if length > 4 * MAX_VALUES {
        return Err(broken("the weights are no vector"));
    }
    let mut file = std::fs::File::open(path)?;
    file.seek(io::SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(broken("the weights are cut off")) }
}

fn decode(bytes: &[u8], dtype: Dtype) -> io::Result<Vec<f32>> {
    match dtype {
        Dtype::Float32 => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::Float16 => Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
        other => Err(broken(&format!("the weights are {other}"))),
    }
}
