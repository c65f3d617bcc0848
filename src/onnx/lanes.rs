//! Batches of a graph: how many entries one call takes, and filling it up to that.
//!
//! Two reasons to fill up. A graph may be exported for one batch only. And on CPU, ONNX Runtime gives several threads to
//! one matrix product when a call has fewer products than threads (mlas, `MlasGemmBatch`); where it then cuts the
//! columns decides how far the inner sums are cut too, so the last bits depend on the number of threads and on what else
//! is in the batch. A batch with at least as many products (heads × lanes) as threads never gets there; measured with
//! 1.31.1 on products of 64 by 77 with 160 inner values.

use std::ops::Range;
use std::path::Path;

use ndarray::{Array, ArrayView, Axis, CowArray, RemoveAxis, Slice, concatenate};

use crate::error::{Error, ErrorKind, Result};

/// How many entries one call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Exactly this many.
    pub fixed: Option<usize>,
    /// At least this many.
    pub least: usize,
}

impl Batch {
    /// Returns the calls that `count` entries need: which of them, and how many entries the call has.
    pub(super) fn calls(self, count: usize) -> Vec<(Range<usize>, usize)> {
        let most = self.fixed.unwrap_or(count).max(1);
        let ranges = (0..count).step_by(most).map(|start| start..(start + most).min(count));
        ranges.map(|range| (range.clone(), self.fixed.unwrap_or(range.len().max(self.least)))).collect()
    }

    /// Calls `run` for every call that `count` entries need and returns their outputs in order, without what filled up.
    pub(super) fn run<D: RemoveAxis>(
        self,
        count: usize,
        mut run: impl FnMut(Range<usize>, usize) -> Result<Array<f32, D>>,
    ) -> Result<Array<f32, D>> {
        Ok(self.run_all(count, |range, size| Ok(vec![run(range, size)?]))?.swap_remove(0))
    }

    /// As [`Batch::run`] for calls that give several outputs, at least one.
    pub(super) fn run_all<D: RemoveAxis>(
        self,
        count: usize,
        mut run: impl FnMut(Range<usize>, usize) -> Result<Vec<Array<f32, D>>>,
    ) -> Result<Vec<Array<f32, D>>> {
        let mut outputs: Vec<Vec<Array<f32, D>>> = Vec::new();
        for (range, size) in self.calls(count) {
            let wanted = range.len();
            let call = run(range, size)?;
            outputs.resize_with(call.len(), Vec::new);
            for (all, mut output) in outputs.iter_mut().zip(call) {
                output.slice_axis_inplace(Axis(0), Slice::from(..wanted));
                all.push(output);
            }
        }
        if outputs.is_empty() {
            return Err(Error::new(ErrorKind::Unexpected, "empty_batch", "a network was called with nothing to do"));
        }
        Ok(outputs.into_iter().map(joined).collect())
    }
}

/// Returns the outputs of several calls as one; an only one is not copied.
fn joined<D: RemoveAxis>(mut outputs: Vec<Array<f32, D>>) -> Array<f32, D> {
    if outputs.len() == 1 {
        return outputs.remove(0);
    }
    let views: Vec<_> = outputs.iter().map(|output| output.view()).collect();
    concatenate(Axis(0), &views).expect("outputs of one graph for entries of one shape have one shape")
}

/// Returns entries `range` of `all`, the last one repeated until there are `size`; a view where nothing is repeated.
pub(super) fn fill<'v, D: RemoveAxis>(
    all: ArrayView<'v, f32, D>,
    range: &Range<usize>,
    size: usize,
) -> CowArray<'v, f32, D> {
    let part = all.slice_axis_move(Axis(0), Slice::from(range.clone()));
    let missing = size.saturating_sub(range.len());
    if missing == 0 {
        return CowArray::from(part);
    }
    let order: Vec<usize> = (0..size).map(|i| i.min(range.len() - 1)).collect();
    CowArray::from(part.select(Axis(0), &order))
}

/// Returns how many entries a call on CPU needs so that `heads` products an entry keep `threads` threads apart.
pub(super) fn least_entries(threads: usize, heads: usize) -> usize {
    // On processors with two kinds of cores ONNX Runtime cuts the work four times finer (`TaskGranularityFactor`).
    let finer = if Path::new("/sys/devices/cpu_atom").exists() { 4 } else { 1 };
    if threads <= 1 { 1 } else { (threads * finer).div_ceil(heads.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn calls_are_split_and_filled_up() {
        let free = Batch { fixed: None, least: 3 };
        assert_eq!(free.calls(5), [(0..5, 5)]);
        assert_eq!(free.calls(1), [(0..1, 3)]);
        let fixed = Batch { fixed: Some(2), least: 3 };
        assert_eq!(fixed.calls(3), [(0..2, 2), (2..3, 2)]);
    }

    #[test]
    fn what_filled_up_does_not_come_back() {
        let all = array![[1.0_f32], [2.0], [3.0]];
        for batch in
            [Batch { fixed: None, least: 1 }, Batch { fixed: None, least: 8 }, Batch { fixed: Some(2), least: 1 }]
        {
            let mut sizes = Vec::new();
            let double = |range: Range<usize>, size| {
                sizes.push(size);
                Ok(fill(all.view(), &range, size).mapv(|x| 2.0 * x))
            };
            assert_eq!(
                batch.run(3, double).expect("no errors here"),
                array![[2.0], [4.0], [6.0]],
                "{batch:?} {sizes:?}"
            );
        }
        assert_eq!(fill(all.view(), &(1..3), 4), array![[2.0], [3.0], [3.0], [3.0]]);
    }

    #[test]
    fn one_thread_needs_no_filling() {
        assert_eq!(least_entries(1, 1), 1);
        assert!(least_entries(16, 8) >= 2);
    }
}
