//! Reads what an ONNX file says about itself, without its weights.
//!
//! An ONNX file is one protobuf message (onnx.proto3 of onnx 1.23). The reader walks its fields and seeks over what it
//! does not need, so a file of gigabytes takes milliseconds. Every length is checked against its enclosing message:
//! garbage gives an error, never a panic or a large allocation.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use super::signature::{Dim, Dtype, Signature, TensorInfo};
use crate::error::{Error, ErrorKind, Location, Result};

/// Names longer than this are not names.
const MAX_STRING: u64 = 1 << 20;

/// Returns the signature of the ONNX file at `path`.
///
/// # Errors
/// The file cannot be read or is not an ONNX graph.
pub fn read_signature(path: &Path) -> Result<Signature> {
    let (mut reader, length) = open_reader(path).map_err(|error| unreadable(path, error))?;
    read_model(&mut reader, length).map_err(|error| not_a_graph(path, &error))
}

/// Returns a reader at the start of a file, and the file's length.
pub(super) fn open_reader(path: &Path) -> io::Result<(Reader<File>, u64)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((Reader { input: BufReader::with_capacity(64 << 10, file), position: 0 }, length))
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Model, "graph_unreadable", format!("cannot read the graph: {error}"))
        .at(Location::file(path))
        .source(error)
}

fn not_a_graph(path: &Path, error: &io::Error) -> Error {
    let message = format!("this is not a complete ONNX graph: {error}");
    let error = Error::new(ErrorKind::Model, "not_onnx", message).at(Location::file(path));
    if is_lfs_pointer(path) {
        return error.hint("the file is a Git LFS pointer; fetch its content with `git lfs pull`");
    }
    error.hint("the file may be cut off or of another format; copy or export it again")
}

/// Returns whether `path` is what Git LFS leaves in place of a file that it has not fetched.
pub(super) fn is_lfs_pointer(path: &Path) -> bool {
    let mut start = [0; 24];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && start.starts_with(b"version https://git-lfs")
}

/// One field of a message: its number and its value.
pub(super) enum Value {
    /// A number (varint).
    Number(u64),
    /// A message, string or packed array, by the position where it ends.
    Bytes { end: u64 },
    /// A fixed 32- or 64-bit value, already skipped.
    Skipped,
}

/// Walks the fields of a message.
pub(super) struct Reader<R> {
    input: BufReader<R>,
    position: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Returns where in the file it is.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.position += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("a number is longer than 64 bits"))
    }

    fn skip_to(&mut self, end: u64) -> io::Result<()> {
        let distance = end.checked_sub(self.position).ok_or_else(|| broken("a field ends before it starts"))?;
        let distance = i64::try_from(distance).map_err(|_| broken("a field is too long"))?;
        self.input.seek_relative(distance)?;
        self.position = end;
        Ok(())
    }

    /// Returns the next field of the message that ends at `end`, or `None` at its end.
    fn field(&mut self, end: u64) -> io::Result<Option<(u64, Value)>> {
        if self.position == end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.fixed(8, end)?,
            2 => {
                let length = self.varint()?;
                let stop = self.position.checked_add(length).filter(|stop| *stop <= end);
                Value::Bytes { end: stop.ok_or_else(|| broken("a field is longer than what holds it"))? }
            }
            5 => self.fixed(4, end)?,
            kind => return Err(broken(&format!("wire type {kind} does not exist"))),
        };
        if tag >> 3 == 0 || self.position > end {
            return Err(broken("a field is outside of what holds it"));
        }
        Ok(Some((tag >> 3, value)))
    }

    fn fixed(&mut self, size: u64, end: u64) -> io::Result<Value> {
        let stop = self.position.checked_add(size).filter(|stop| *stop <= end);
        self.skip_to(stop.ok_or_else(|| broken("a number is cut off"))?)?;
        Ok(Value::Skipped)
    }

    /// Returns the string that ends at `end`.
    pub(super) fn string(&mut self, end: u64) -> io::Result<String> {
        let length = end - self.position;
        if length > MAX_STRING {
            return Err(broken("a name is longer than 1 MiB"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| broken("a name is too long"))?];
        self.input.read_exact(&mut bytes)?;
        self.position = end;
        String::from_utf8(bytes).map_err(|_| broken("a name is not UTF-8"))
    }

    /// Calls `visit` for every field of the message that ends at `end`, and skips what `visit` leaves unread.
    pub(super) fn message(
        &mut self,
        end: u64,
        mut visit: impl FnMut(&mut Self, u64, &Value) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some((number, value)) = self.field(end)? {
            visit(self, number, &value)?;
            if let Value::Bytes { end } = value {
                self.skip_to(end)?;
            }
        }
        Ok(())
    }
}

/// Returns the error for a file that is not what it should be.
pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// What the main graph holds, before initializers are taken out of its inputs.
#[derive(Default)]
struct Graph {
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    nodes: usize,
    contrib_ops: bool,
    cuda_only_ops: BTreeSet<String>,
    random_ops: bool,
    initializers: HashSet<String>,
    external_data: BTreeSet<String>,
}

fn read_model<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<Signature> {
    let (mut graph, mut opset, mut name, mut version) = (None, None, String::new(), String::new());
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (2, Value::Bytes { end }) => name = reader.string(*end)?,
            (3, Value::Bytes { end }) => version = reader.string(*end)?,
            (7, Value::Bytes { end }) => graph = Some(read_graph(reader, *end)?),
            (8, Value::Bytes { end }) => opset = read_opset(reader, *end)?.or(opset),
            _ => {}
        }
        Ok(())
    })?;
    let graph = graph.ok_or_else(|| broken("it holds no graph"))?;
    let inputs = graph.inputs.into_iter().filter(|input| !graph.initializers.contains(&input.name)).collect();
    Ok(Signature {
        inputs,
        outputs: graph.outputs,
        opset,
        producer: format!("{name} {version}").trim().to_string(),
        nodes: graph.nodes,
        contrib_ops: graph.contrib_ops,
        cuda_only_ops: graph.cuda_only_ops,
        random_ops: graph.random_ops,
        external_data: graph.external_data.into_iter().collect(),
    })
}

/// Returns the version if this is the default operator set.
fn read_opset<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<Option<u64>> {
    let (mut domain, mut version) = (String::new(), None);
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (1, Value::Bytes { end }) => domain = reader.string(*end)?,
            (2, Value::Number(number)) => version = Some(*number),
            _ => {}
        }
        Ok(())
    })?;
    Ok(version.filter(|_| domain.is_empty() || domain == "ai.onnx"))
}

fn read_graph<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<Graph> {
    let mut graph = Graph::default();
    reader.message(end, |reader, number, value| {
        let Value::Bytes { end } = *value else { return Ok(()) };
        match number {
            1 => {
                graph.nodes += 1;
                let node = read_node_kind(reader, end)?;
                graph.contrib_ops |= node.domain.starts_with("com.microsoft");
                graph.random_ops |= node.operator.starts_with("Random");
                graph.cuda_only_ops.extend(node.cuda_only());
            }
            5 => {
                let name = read_initializer(reader, end, &mut graph.external_data)?;
                graph.initializers.insert(name);
            }
            11 => graph.inputs.push(read_value_info(reader, end)?),
            12 => graph.outputs.push(read_value_info(reader, end)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(graph)
}

/// What a node computes.
#[derive(Default)]
struct NodeKind {
    operator: String,
    domain: String,
    /// Which of its inputs are given.
    inputs: Vec<bool>,
}

/// Operators of ONNX Runtime's own that have kernels for CUDA and for no processor (1.31, `cuda_contrib_kernels.cc`).
const CUDA_ONLY: [&str; 8] = [
    "BiasAdd",
    "BiasSplitGelu",
    "GemmFloat8",
    "GroupNorm",
    "NhwcConv",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "SkipGroupNorm",
];

impl NodeKind {
    /// Returns the name of what only CUDA computes, if this is such a node.
    fn cuda_only(&self) -> Option<String> {
        let name = self.operator.as_str();
        let is_packed = name == "MultiHeadAttention" && !self.inputs.get(2).is_some_and(|given| *given);
        match self.domain == "com.microsoft" {
            true if CUDA_ONLY.contains(&name) => Some(name.to_string()),
            // Keys and values come in one tensor with the queries, or with each other.
            true if is_packed => Some("MultiHeadAttention of packed inputs".to_string()),
            _ => None,
        }
    }
}

fn read_node_kind<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<NodeKind> {
    let mut node = NodeKind::default();
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (1, Value::Bytes { end }) => node.inputs.push(*end > reader.position()),
            (4, Value::Bytes { end }) => node.operator = reader.string(*end)?,
            (7, Value::Bytes { end }) => node.domain = reader.string(*end)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

/// Returns the name of an initializer, and notes the file where its bytes are if that is another one.
fn read_initializer<R: Read + Seek>(
    reader: &mut Reader<R>,
    end: u64,
    files: &mut BTreeSet<String>,
) -> io::Result<String> {
    let mut name = String::new();
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (8, Value::Bytes { end }) => name = reader.string(*end)?,
            (13, Value::Bytes { end }) => {
                let (key, value) = read_entry(reader, *end)?;
                if key == "location" {
                    files.insert(value);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(name)
}

/// Reads a `StringStringEntryProto`.
pub(super) fn read_entry<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<(String, String)> {
    let mut entry = (String::new(), String::new());
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (1, Value::Bytes { end }) => entry.0 = reader.string(*end)?,
            (2, Value::Bytes { end }) => entry.1 = reader.string(*end)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

fn read_value_info<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<TensorInfo> {
    let mut info = TensorInfo { name: String::new(), dtype: Dtype::Other(0), dims: None };
    reader.message(end, |reader, number, value| {
        match (number, value) {
            (1, Value::Bytes { end }) => info.name = reader.string(*end)?,
            (2, Value::Bytes { end }) => (info.dtype, info.dims) = read_type(reader, *end)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(info)
}

/// Reads a `TypeProto`; what is no tensor keeps dtype 0.
fn read_type<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<(Dtype, Option<Vec<Dim>>)> {
    let (mut dtype, mut dims) = (Dtype::Other(0), None);
    reader.message(end, |reader, number, value| {
        let (1, Value::Bytes { end }) = (number, value) else { return Ok(()) };
        reader.message(*end, |reader, number, value| {
            match (number, value) {
                (1, Value::Number(number)) => dtype = Dtype::from_onnx(*number),
                (2, Value::Bytes { end }) => dims = Some(read_shape(reader, *end)?),
                _ => {}
            }
            Ok(())
        })
    })?;
    Ok((dtype, dims))
}

fn read_shape<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> io::Result<Vec<Dim>> {
    let mut dims = Vec::new();
    reader.message(end, |reader, number, value| {
        let (1, Value::Bytes { end }) = (number, value) else { return Ok(()) };
        let mut dim = Dim::Unknown;
        reader.message(*end, |reader, number, value| {
            match (number, value) {
                // Some exporters write -1 or 0 for "any size".
                (1, Value::Number(size)) if (1..=i64::MAX as u64).contains(size) => dim = Dim::Fixed(*size),
                (2, Value::Bytes { end }) => dim = Dim::Named(reader.string(*end)?),
                _ => {}
            }
            Ok(())
        })?;
        dims.push(if dim == Dim::Named(String::new()) { Dim::Unknown } else { dim });
        Ok(())
    })?;
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn parse(bytes: &[u8]) -> io::Result<Signature> {
        let mut reader = Reader { input: BufReader::new(Cursor::new(bytes)), position: 0 };
        read_model(&mut reader, bytes.len() as u64)
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short test messages")];
        out.extend_from_slice(bytes);
        out
    }

    fn number(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    /// A graph with one input `x` float16 [n, 4, ?], one initializer `w` in `weights.pb` that is listed as input too.
    fn model() -> Vec<u8> {
        let dims = [field(1, &field(2, b"n")), field(1, &number(1, 4)), field(1, b"")].concat();
        let tensor = [number(1, 10), field(2, &dims)].concat();
        let input = |name: &[u8]| field(11, &[field(1, name), field(2, &field(1, &tensor))].concat());
        let location = field(13, &[field(1, b"location"), field(2, b"weights.pb")].concat());
        let weight = field(5, &[field(8, b"w"), location].concat());
        let node = field(1, &[field(4, b"Gelu"), field(7, b"com.microsoft")].concat());
        let graph = [node, weight, input(b"x"), input(b"w"), field(12, &field(1, b"y"))].concat();
        let opset = field(8, &number(2, 18));
        [number(1, 8), field(2, b"pytorch"), field(3, b"2.1"), field(7, &graph), opset].concat()
    }

    #[test]
    fn a_graph_tells_its_signature() {
        let signature = parse(&model()).expect("valid");
        assert_eq!(signature.inputs.len(), 1, "an initializer is no input");
        assert_eq!(signature.inputs[0].to_string(), "`x` float16 [n, 4, ?]");
        assert_eq!(signature.outputs[0].to_string(), "`y` onnx dtype 0 [any]");
        assert_eq!((signature.opset, signature.producer.as_str()), (Some(18), "pytorch 2.1"));
        assert_eq!((signature.nodes, signature.contrib_ops), (1, true));
        assert_eq!(signature.external_data, ["weights.pb"]);
    }

    #[test]
    fn operators_without_kernels_for_processors_are_named() {
        let node = |operator: &[u8], inputs: &[&[u8]]| {
            let inputs: Vec<u8> = inputs.iter().flat_map(|input| field(1, input)).collect();
            field(1, &[inputs, field(4, operator), field(7, b"com.microsoft")].concat())
        };
        let named = |nodes: &[Vec<u8>]| {
            let names = parse(&field(7, &nodes.concat())).expect("valid").cuda_only_ops;
            names.into_iter().collect::<Vec<_>>()
        };
        assert!(named(&[node(b"FastGelu", &[b"x"]), node(b"MultiHeadAttention", &[b"q", b"k", b"v"])]).is_empty());
        let packed = [node(b"MultiHeadAttention", &[b"q", b"kv"]), node(b"MultiHeadAttention", &[b"qkv", b"", b""])];
        assert_eq!(named(&packed), ["MultiHeadAttention of packed inputs"]);
        assert_eq!(named(&[node(b"NhwcConv", &[b"x"]), node(b"GroupNorm", &[b"x"])]), ["GroupNorm", "NhwcConv"]);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error_or_a_signature() {
        let model = model();
        for end in 0..model.len() {
            let _ = parse(&model[..end]);
        }
        for position in 0..model.len() {
            for bits in [0x01, 0x80, 0xff] {
                let mut broken = model.clone();
                broken[position] ^= bits;
                let _ = parse(&broken);
            }
        }
        assert!(parse(b"").is_err());
        assert!(parse(b"<html>not a graph</html>").is_err());
        assert!(
            parse(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err(),
            "a length beyond the file"
        );
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
