//! The list of nodes and their providers, which ONNX Runtime has in its C interface since 1.24 and `ort` has not.
#![expect(unsafe_code, reason = "calls ONNX Runtime's C interface")]

use std::ffi::{CStr, c_char};
use std::ptr;

use ort::AsPointer;
use ort::session::Session;
use ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtStatusPtr};

use super::placement::AssignedNode;

/// Returns every node of `session` that was assigned to a provider. The session must have been made with the setting
/// [`super::placement::RECORD`].
pub(super) fn assigned_nodes(session: &Session) -> ort::Result<Vec<AssignedNode>> {
    let mut nodes = Vec::new();
    for subgraph in subgraphs(session)? {
        // SAFETY: the subgraph belongs to the session, which outlives this function.
        let provider = unsafe { text(|out| (ort::api().EpAssignedSubgraph_GetEpName)(*subgraph, out))? };
        for node in nodes_of(*subgraph)? {
            // SAFETY: as above; the session owns all nodes and strings.
            let (domain, operator) = unsafe {
                (
                    text(|out| (ort::api().EpAssignedNode_GetDomain)(*node, out))?,
                    text(|out| (ort::api().EpAssignedNode_GetOperatorType)(*node, out))?,
                )
            };
            nodes.push(AssignedNode { provider: provider.clone(), domain, operator });
        }
    }
    Ok(nodes)
}

fn subgraphs(session: &Session) -> ort::Result<&[*const OrtEpAssignedSubgraph]> {
    let (mut first, mut count) = (ptr::null(), 0);
    // SAFETY: both are written to by the call; the array belongs to the session.
    unsafe {
        check((ort::api().Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut first, &mut count))?;
        Ok(slice(first, count))
    }
}

fn nodes_of<'s>(subgraph: *const OrtEpAssignedSubgraph) -> ort::Result<&'s [*const OrtEpAssignedNode]> {
    let (mut first, mut count) = (ptr::null(), 0);
    // SAFETY: both are written to by the call; the array belongs to the subgraph, and that to the session.
    unsafe {
        check((ort::api().EpAssignedSubgraph_GetNodes)(subgraph, &mut first, &mut count))?;
        Ok(slice(first, count))
    }
}

/// # Safety
/// `first` points to `count` values, or is null.
unsafe fn slice<'s, T>(first: *const T, count: usize) -> &'s [T] {
    // SAFETY: as the caller says.
    if first.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(first, count) } }
}

/// # Safety
/// `get` gives a C string that lives on, or null.
unsafe fn text(get: impl FnOnce(*mut *const c_char) -> OrtStatusPtr) -> ort::Result<String> {
    let mut out = ptr::null();
    // SAFETY: as the caller says.
    unsafe {
        check(get(&mut out))?;
        Ok(if out.is_null() { String::new() } else { CStr::from_ptr(out).to_string_lossy().into_owned() })
    }
}

/// # Safety
/// `status` comes from a call just made.
unsafe fn check(status: OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: as the caller says.
    unsafe { ort::Error::result_from_status(status) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::placement::RECORD;
    use super::super::runtime::Runtime;
    use super::*;

    #[test]
    fn onnx_runtime_tells_where_each_node_runs() {
        let runtime = Runtime::load(None).expect("`make setup` was run");
        let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny/unet/model.onnx");
        let load = |record: &str| {
            let builder = Session::builder(runtime.environment()).expect("a builder");
            let mut builder = builder.with_config_entry(RECORD, record).expect("a setting");
            builder.commit_from_file(&graph).expect("a graph")
        };
        let nodes = assigned_nodes(&load("1")).expect("the list");
        assert!(nodes.iter().all(|node| node.provider == "CPUExecutionProvider"), "{nodes:?}");
        assert!(nodes.iter().any(|node| node.operator == "Conv"), "{nodes:?}");
        assert!(assigned_nodes(&load("0")).map_or(true, |nodes| nodes.is_empty()), "nothing was recorded");
    }
}
