//! Prompt embeddings: each distinct text is tokenized and encoded once a run, and forgotten after its last use.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array1, Array2, Axis, concatenate, s};

use super::member::TextEmbeds;
use super::networks::{Encoded, TextEncoder};
use crate::error::Result;
use crate::job::ImageTask;
use crate::plan::Plan;
use crate::prompt::{Chunks, LongPrompt, PromptSyntax, PromptTokenizer, Segment, emphasize};
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

/// How prompts are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromptStyle {
    /// How they are written.
    pub syntax: PromptSyntax,
    /// What becomes of long ones.
    pub long: LongPrompt,
}

/// What is encoded together: one text an encoder, the layers that are skipped, the chunks that it is filled up to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Texts<'a> {
    texts: Vec<&'a str>,
    clip_skip: u32,
    chunks: usize,
}

/// What is known of one text.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    left: u64,
    seen: bool,
}

/// The embeddings of the texts of one run.
pub struct Embeddings<'a> {
    parts: Vec<TextPart<'a>>,
    recipe: &'a Recipe,
    style: PromptStyle,
    /// Uses still to come of each text.
    uses: HashMap<Texts<'a>, Uses>,
    /// Texts that were never encoded so far.
    unseen: usize,
    cache: HashMap<Texts<'a>, Arc<TextEmbeds>>,
    /// How many chunks each text takes, by the number of its encoder, where long ones are cut into chunks.
    counts: HashMap<(usize, &'a str), usize>,
}

impl<'a> Embeddings<'a> {
    /// Returns an empty cache that knows from `plan` how often each text will be asked for. `parts` are the model's text
    /// encoders, as many as `recipe` has roles for.
    pub fn new(parts: Vec<TextPart<'a>>, recipe: &'a Recipe, style: PromptStyle, plan: &'a Plan) -> Self {
        let (uses, cache, counts) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut embeddings = Embeddings { parts, recipe, style, uses, unseen: 0, cache, counts };
        for task in plan.buckets.iter().flat_map(|bucket| &bucket.tasks) {
            let (prompt, negative) = embeddings.needed(task);
            for texts in std::iter::once(prompt).chain(negative) {
                embeddings.uses.entry(texts).or_default().left += 1;
            }
        }
        embeddings.unseen = embeddings.uses.len();
        embeddings
    }

    /// Encodes the texts of `tasks` that are not yet in the cache, many in one call.
    ///
    /// # Errors
    /// Tokenizing or encoding fails for the batch; [`Embeddings::of`] then finds out whose text it is.
    pub fn prepare(&mut self, tasks: &[&'a ImageTask]) -> Result<()> {
        let mut missing: Vec<Texts<'a>> = Vec::new();
        for task in tasks {
            let (prompt, negative) = self.needed(task);
            for texts in std::iter::once(prompt).chain(negative) {
                if !self.cache.contains_key(&texts) && !missing.contains(&texts) {
                    missing.push(texts);
                }
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
        let (prompt, negative) = self.needed(task);
        let prompt = self.take(prompt)?;
        let negative = match negative {
            _ if !task.job.do_classifier_free_guidance() => None,
            Some(texts) => Some(self.take(texts)?),
            None => Some(Arc::new(prompt.zeros())),
        };
        Ok((prompt, negative))
    }

    /// Returns what an image needs encoded: its prompt, and its negative prompt unless guidance is off or zeros stand for
    /// it. Both have as many chunks, since guidance compares them.
    fn needed(&mut self, task: &'a ImageTask) -> (Texts<'a>, Option<Texts<'a>>) {
        let mut prompt = prompt_texts(self.recipe, task);
        let guided = task.job.do_classifier_free_guidance();
        let mut negative = guided.then(|| negative_texts(self.recipe, task)).flatten();
        let all = std::iter::once(&prompt).chain(&negative);
        let chunks = all.map(|texts| self.chunk_count(texts)).max().unwrap_or(1);
        std::iter::once(&mut prompt).chain(&mut negative).for_each(|texts| texts.chunks = chunks);
        (prompt, negative)
    }

    /// Returns how many chunks the longest of the texts takes. One that cannot be read fails when it is encoded.
    fn chunk_count(&mut self, texts: &Texts<'a>) -> usize {
        let Embeddings { parts, style, counts, .. } = self;
        if style.long != LongPrompt::Chunk {
            return 1;
        }
        let pairs = parts.iter().zip(&texts.texts).enumerate();
        let counted = pairs.map(|(number, (part, text))| {
            let count = || part.chunks(text, *style).map_or(1, |chunks| chunks.ids.len());
            *counts.entry((number, text)).or_insert_with(count)
        });
        counted.max().unwrap_or(1)
    }

    fn take(&mut self, texts: Texts<'a>) -> Result<Arc<TextEmbeds>> {
        if !self.cache.contains_key(&texts) {
            self.encode(std::slice::from_ref(&texts))?;
        }
        let embeds = self.cache.get(&texts).expect("the text was just encoded").clone();
        let uses = self.uses.entry(texts.clone()).or_default();
        uses.left = uses.left.saturating_sub(1);
        if uses.left == 0 {
            self.cache.remove(&texts);
        }
        Ok(embeds)
    }

    /// Encodes texts of one layer by every encoder and joins what they give.
    fn encode(&mut self, all: &[Texts<'a>]) -> Result<()> {
        let mut encoded = Vec::with_capacity(self.parts.len());
        for (number, part) in self.parts.iter_mut().enumerate() {
            encoded.push(part.encode(all, number, self.style)?);
        }
        for (row, texts) in all.iter().enumerate() {
            let outputs =
                self.recipe.texts.iter().zip(&encoded).map(|(role, encoded)| Output::of(*role, &encoded[row]));
            self.cache.insert(texts.clone(), Arc::new(join(outputs.collect(), self.recipe.absent_sequence)));
            if let Some(uses) = self.uses.get_mut(texts).filter(|uses| !uses.seen) {
                (uses.seen, self.unseen) = (true, self.unseen - 1);
            }
        }
        if self.unseen == 0 {
            self.parts.iter_mut().for_each(|part| part.encoder.rest());
        }
        Ok(())
    }
}

impl TextPart<'_> {
    /// Returns what the encoder gives for its text of each of `all`, which is number `number` there; one layer for all.
    fn encode(&mut self, all: &[Texts<'_>], number: usize, style: PromptStyle) -> Result<Vec<EncodedText>> {
        let mut chunked = Vec::with_capacity(all.len());
        for texts in all {
            let mut chunks = self.chunks(texts.texts[number], style)?;
            if self.can_be_chunked() {
                chunks.pad_to(texts.chunks, self.tokenizer);
            }
            chunked.push(chunks);
        }
        let rows: Vec<&Vec<i64>> = chunked.iter().flat_map(|chunks| &chunks.ids).collect();
        let (count, sequence) = (rows.len(), self.tokenizer.model_max_length());
        let ids: Vec<i64> = rows.into_iter().flatten().copied().collect();
        let ids = Array2::from_shape_vec((count, sequence), ids).expect("every chunk has as many ids");
        Ok(together(self.encoder.encode(ids.view(), all[0].clip_skip)?, &chunked))
    }

    /// Returns the token ids of a text. T5 reads long texts as they are; only CLIP's are cut into chunks.
    fn chunks(&self, text: &str, style: PromptStyle) -> Result<Chunks> {
        let mut segments = style.syntax.parse(text)?;
        if self.can_be_chunked() {
            return Chunks::new(&segments, self.tokenizer, style.long);
        }
        segments.retain(|segment| *segment != Segment::Break);
        let long = if style.long == LongPrompt::Chunk { LongPrompt::Truncate } else { style.long };
        Chunks::new(&segments, self.tokenizer, long)
    }

    fn can_be_chunked(&self) -> bool {
        self.tokenizer.starts() > 0
    }
}

/// Joins what an encoder gave chunk by chunk: the hidden states of a text's chunks, weighed, one below the other; the pooled
/// output of its first.
fn together(encoded: Encoded, chunked: &[Chunks]) -> Vec<EncodedText> {
    let mut first = 0;
    let texts = chunked.iter().map(|chunks| {
        let range = first..first + chunks.ids.len();
        first = range.end;
        let states = encoded.hidden_states.as_ref().map(|all| {
            let weighed = range.clone().zip(&chunks.weights).map(|(row, weights)| {
                let mut states = all.index_axis(Axis(0), row).to_owned();
                if chunks.is_weighted() {
                    emphasize(&mut states, weights);
                }
                states
            });
            below(&weighed.collect::<Vec<_>>())
        });
        EncodedText {
            hidden_states: states,
            pooled: encoded.pooled.as_ref().map(|all| all.row(range.start).to_owned()),
        }
    });
    texts.collect()
}

/// What one encoder gave for one text.
struct EncodedText {
    hidden_states: Option<Array2<f32>>,
    pooled: Option<Array1<f32>>,
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
    fn of(role: TextRole, encoded: &EncodedText) -> Self {
        Output {
            sequence: role.hidden == HiddenUse::Sequence,
            hidden_states: encoded.hidden_states.clone().filter(|_| role.hidden != HiddenUse::Unused),
            pooled: encoded.pooled.clone().filter(|_| role.pooled),
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
    let (job, more) = (&*task.job, &task.job.rare().texts);
    let further = [&more.prompt_2, &more.prompt_3];
    Texts { texts: one_each(recipe, &job.prompt, further), clip_skip: job.rare().clip_skip, chunks: 1 }
}

/// Returns the texts of an image's negative prompt, or `None` where zeros stand for it. Layers are skipped for the prompt
/// only, as in diffusers.
fn negative_texts<'a>(recipe: &Recipe, task: &'a ImageTask) -> Option<Texts<'a>> {
    let (job, more) = (&*task.job, &task.job.rare().texts);
    if recipe.zeros_for_no_negative && job.negative_prompt.is_empty() {
        return None;
    }
    let further = [&more.negative_prompt_2, &more.negative_prompt_3];
    Some(Texts { texts: one_each(recipe, &job.negative_prompt, further), clip_skip: 0, chunks: 1 })
}

fn one_each<'a>(recipe: &Recipe, first: &'a str, further: [&'a Option<String>; 2]) -> Vec<&'a str> {
    let further = further.into_iter().map(|text| text.as_deref().unwrap_or(first));
    std::iter::once(first).chain(further).take(recipe.texts.len()).collect()
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
