//! Prompt embeddings: each distinct text is tokenized and encoded once a run, and forgotten after its last use.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array1, Array2, Axis, concatenate, s};

use super::member::TextEmbeds;
use super::networks::{Encoded, TextEncoder};
use crate::error::Result;
use crate::job::ImageTask;
use crate::plan::Plan;
use crate::prompt::PromptTokenizer;
use crate::recipe::{HiddenUse, Recipe, TextRole};

/// Texts per call of a text encoder.
const ENCODE_BATCH: usize = 16;

/// One text encoder and its tokenizer.
pub struct TextPart<'a> {
    /// Token ids to embeddings.
    pub encoder: &'a mut dyn TextEncoder,
    /// Text to token ids.
    pub tokenizer: &'a PromptTokenizer,
}

/// What is encoded together: one text an encoder, and the layers that are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Texts<'a> {
    texts: Vec<&'a str>,
    clip_skip: u32,
}

/// The embeddings of the texts of one run.
pub struct Embeddings<'a> {
    parts: Vec<TextPart<'a>>,
    recipe: &'a Recipe,
    /// Uses still to come of each text.
    uses: HashMap<Texts<'a>, u64>,
    cache: HashMap<Texts<'a>, Arc<TextEmbeds>>,
}

impl<'a> Embeddings<'a> {
    /// Returns an empty cache that knows from `plan` how often each text will be asked for. `parts` are the model's text
    /// encoders, as many as `recipe` has roles for.
    pub fn new(parts: Vec<TextPart<'a>>, recipe: &'a Recipe, plan: &'a Plan) -> Self {
        let mut uses = HashMap::new();
        for task in plan.buckets.iter().flat_map(|bucket| &bucket.tasks) {
            for texts in needed(recipe, task) {
                *uses.entry(texts).or_insert(0) += 1;
            }
        }
        Embeddings { parts, recipe, uses, cache: HashMap::new() }
    }

    /// Encodes the texts of `tasks` that are not yet in the cache, many in one call.
    ///
    /// # Errors
    /// Tokenizing or encoding fails for the batch; [`Embeddings::of`] then finds out whose text it is.
    pub fn prepare(&mut self, tasks: &'a [ImageTask]) -> Result<()> {
        let mut missing: Vec<Texts<'a>> = Vec::new();
        for texts in tasks.iter().flat_map(|task| needed(self.recipe, task)) {
            if !self.cache.contains_key(&texts) && !missing.contains(&texts) {
                missing.push(texts);
            }
        }
        // One call has one layer.
        missing.sort_by_key(|texts| texts.clip_skip);
        let mut groups = missing.chunk_by(|a, b| a.clip_skip == b.clip_skip);
        groups.try_for_each(|group| group.chunks(ENCODE_BATCH).try_for_each(|batch| self.encode(batch)))
    }

    /// Returns the embeddings of the prompt of `task`, and of its negative prompt where guidance is on.
    ///
    /// # Errors
    /// Tokenizing or encoding one of its texts fails.
    pub fn of(&mut self, task: &'a ImageTask) -> Result<(Arc<TextEmbeds>, Option<Arc<TextEmbeds>>)> {
        let prompt = self.take(prompt_texts(self.recipe, task))?;
        if !task.job.do_classifier_free_guidance() {
            return Ok((prompt, None));
        }
        let negative = match negative_texts(self.recipe, task) {
            Some(texts) => self.take(texts)?,
            None => Arc::new(prompt.zeros()),
        };
        Ok((prompt, Some(negative)))
    }

    fn take(&mut self, texts: Texts<'a>) -> Result<Arc<TextEmbeds>> {
        if !self.cache.contains_key(&texts) {
            self.encode(std::slice::from_ref(&texts))?;
        }
        let embeds = self.cache.get(&texts).expect("the text was just encoded").clone();
        let uses = self.uses.entry(texts.clone()).or_insert(1);
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.cache.remove(&texts);
        }
        Ok(embeds)
    }

    /// Encodes texts of one layer by every encoder and joins what they give.
    fn encode(&mut self, all: &[Texts<'a>]) -> Result<()> {
        let mut encoded = Vec::with_capacity(self.parts.len());
        for (number, part) in self.parts.iter_mut().enumerate() {
            encoded.push(part.encode(all.iter().map(|texts| texts.texts[number]), all[0].clip_skip)?);
        }
        for (row, texts) in all.iter().enumerate() {
            let outputs = self.recipe.texts.iter().zip(&encoded).map(|(role, encoded)| Output::of(*role, encoded, row));
            self.cache.insert(texts.clone(), Arc::new(join(outputs.collect(), self.recipe.absent_sequence)));
        }
        Ok(())
    }
}

impl TextPart<'_> {
    fn encode<'t>(&mut self, texts: impl Iterator<Item = &'t str>, clip_skip: u32) -> Result<Encoded> {
        let rows = texts.map(|text| Ok(self.tokenizer.encode(text)?.input_ids)).collect::<Result<Vec<_>>>()?;
        let sequence = rows.first().map_or(0, Vec::len);
        let ids = Array2::from_shape_vec((rows.len(), sequence), rows.concat());
        self.encoder.encode(ids.expect("every text has as many ids").view(), clip_skip)
    }
}

impl TextEmbeds {
    /// Returns zeros of this shape, which stand for "no negative prompt" in models that were trained so.
    fn zeros(&self) -> TextEmbeds {
        let pooled = self.pooled.as_ref().map(|pooled| Array1::zeros(pooled.len()));
        TextEmbeds { hidden_states: Array2::zeros(self.hidden_states.dim()), pooled }
    }
}

/// What one encoder gave for one text, as far as its role has a use for it.
struct Output {
    sequence: bool,
    hidden_states: Option<Array2<f32>>,
    pooled: Option<Array1<f32>>,
}

impl Output {
    fn of(role: TextRole, encoded: &Encoded, row: usize) -> Self {
        let hidden = encoded.hidden_states.as_ref().filter(|_| role.hidden != HiddenUse::Unused);
        let pooled = encoded.pooled.as_ref().filter(|_| role.pooled);
        Output {
            sequence: role.hidden == HiddenUse::Sequence,
            hidden_states: hidden.map(|all| all.index_axis(Axis(0), row).to_owned()),
            pooled: pooled.map(|all| all.row(row).to_owned()),
        }
    }
}

/// Joins what the encoders gave for one prompt: hidden states side by side, then those that go along the sequence, narrower
/// ones filled up with zeros (diffusers 0.42.1, `encode_prompt` of SDXL and SD3); pooled embeddings one after the other.
fn join(outputs: Vec<Output>, absent_sequence: Option<(usize, usize)>) -> TextEmbeds {
    let of_kind = |sequence: bool| outputs.iter().filter(move |output| output.sequence == sequence);
    let features: Vec<_> = of_kind(false).filter_map(|output| output.hidden_states.as_ref()).collect();
    let absent = absent_sequence.map(Array2::zeros);
    let sequences = of_kind(true).filter_map(|output| output.hidden_states.as_ref()).chain(&absent);
    let mut rows = vec![beside(&features)];
    rows.extend(sequences.cloned());
    let pooled: Vec<_> = outputs.iter().filter_map(|output| output.pooled.as_ref()).collect();
    let pooled = (!pooled.is_empty()).then(|| Array1::from_iter(pooled.into_iter().flatten().copied()));
    TextEmbeds { hidden_states: below(&rows), pooled }
}

fn beside(parts: &[&Array2<f32>]) -> Array2<f32> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    if views.is_empty() {
        return Array2::zeros((0, 0));
    }
    concatenate(Axis(1), &views)
        .expect("the encoders of a model take as many tokens, or their states do not stand side by side")
}

fn below(parts: &[Array2<f32>]) -> Array2<f32> {
    let (rows, width) = parts.iter().fold((0, 0), |(rows, width), part| (rows + part.nrows(), width.max(part.ncols())));
    let mut all = Array2::zeros((rows, width));
    let mut start = 0;
    for part in parts {
        all.slice_mut(s![start..start + part.nrows(), ..part.ncols()]).assign(part);
        start += part.nrows();
    }
    all
}

/// Returns the texts of an image's prompt, one an encoder.
fn prompt_texts<'a>(recipe: &Recipe, task: &'a ImageTask) -> Texts<'a> {
    let (job, more) = (&*task.job, &task.job.texts);
    let further = [&more.prompt_2, &more.prompt_3];
    Texts { texts: one_each(recipe, &job.prompt, further), clip_skip: job.clip_skip }
}

/// Returns the texts of an image's negative prompt, or `None` where zeros stand for it. Layers are skipped for the prompt
/// only, as in diffusers.
fn negative_texts<'a>(recipe: &Recipe, task: &'a ImageTask) -> Option<Texts<'a>> {
    let (job, more) = (&*task.job, &task.job.texts);
    if recipe.zeros_for_no_negative && job.negative_prompt.is_empty() {
        return None;
    }
    let further = [&more.negative_prompt_2, &more.negative_prompt_3];
    Some(Texts { texts: one_each(recipe, &job.negative_prompt, further), clip_skip: 0 })
}

fn one_each<'a>(recipe: &Recipe, first: &'a str, further: [&'a Option<String>; 2]) -> Vec<&'a str> {
    let further = further.into_iter().map(|text| text.as_deref().unwrap_or(first));
    std::iter::once(first).chain(further).take(recipe.texts.len()).collect()
}

/// Returns all that an image needs encoded.
fn needed<'a>(recipe: &Recipe, task: &'a ImageTask) -> impl Iterator<Item = Texts<'a>> + use<'a> {
    let guided = task.job.do_classifier_free_guidance();
    let negative = guided.then(|| negative_texts(recipe, task)).flatten();
    std::iter::once(prompt_texts(recipe, task)).chain(negative)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn output(sequence: bool, hidden: Option<Array2<f32>>, pooled: Option<Array1<f32>>) -> Output {
        Output { sequence, hidden_states: hidden, pooled }
    }

    #[test]
    fn two_encoders_stand_side_by_side() {
        let first = output(false, Some(array![[1.0], [2.0]]), None);
        let second = output(false, Some(array![[3.0, 4.0], [5.0, 6.0]]), Some(array![7.0]));
        let joined = join(vec![first, second], None);
        assert_eq!(joined.hidden_states, array![[1.0, 3.0, 4.0], [2.0, 5.0, 6.0]]);
        assert_eq!(joined.pooled, Some(array![7.0]));
    }

    #[test]
    fn a_third_goes_below_and_narrow_ones_are_filled_up() {
        let first = output(false, Some(array![[1.0]]), Some(array![8.0]));
        let second = output(false, Some(array![[2.0]]), Some(array![9.0]));
        let third = output(true, Some(array![[3.0, 4.0, 5.0]]), None);
        let joined = join(vec![first, second, third], None);
        assert_eq!(joined.hidden_states, array![[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]]);
        assert_eq!(joined.pooled, Some(array![8.0, 9.0]));
        let alone = join(vec![output(false, Some(array![[1.0]]), None)], Some((2, 3)));
        assert_eq!(alone.hidden_states, array![[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]);
    }

    #[test]
    fn an_encoder_may_give_its_pooled_output_only() {
        let pooled = output(false, None, Some(array![1.0, 2.0]));
        let states = output(false, Some(array![[3.0]]), None);
        let joined = join(vec![pooled, states], None);
        assert_eq!(joined, TextEmbeds { hidden_states: array![[3.0]], pooled: Some(array![1.0, 2.0]) });
    }
}
