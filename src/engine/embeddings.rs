//! Prompt embeddings: each distinct text is tokenized and encoded once a run, and forgotten after its last use.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array2, Axis};

use super::networks::TextEncoder;
use super::pool::PromptEmbeds;
use crate::error::Result;
use crate::job::ImageTask;
use crate::plan::Plan;
use crate::prompt::PromptTokenizer;

/// Texts per call of the text encoder.
const ENCODE_BATCH: usize = 16;

/// The embeddings of the texts of one run.
pub struct Embeddings<'a> {
    encoder: &'a mut dyn TextEncoder,
    tokenizer: &'a PromptTokenizer,
    /// Uses still to come of each text.
    uses: HashMap<&'a str, u64>,
    cache: HashMap<&'a str, PromptEmbeds>,
}

impl<'a> Embeddings<'a> {
    /// Returns an empty cache that knows from `plan` how often each text will be asked for.
    pub fn new(encoder: &'a mut dyn TextEncoder, tokenizer: &'a PromptTokenizer, plan: &'a Plan) -> Self {
        let mut uses = HashMap::new();
        for task in plan.buckets.iter().flat_map(|bucket| &bucket.tasks) {
            for text in texts(task) {
                *uses.entry(text).or_insert(0) += 1;
            }
        }
        Embeddings { encoder, tokenizer, uses, cache: HashMap::new() }
    }

    /// Encodes the texts of `tasks` that are not yet in the cache, many in one call.
    ///
    /// # Errors
    /// Tokenizing or encoding fails for the batch; [`Embeddings::of`] then finds out whose text it is.
    pub fn prepare(&mut self, tasks: &'a [ImageTask]) -> Result<()> {
        let mut missing: Vec<&str> = Vec::new();
        for text in tasks.iter().flat_map(texts) {
            if !self.cache.contains_key(text) && !missing.contains(&text) {
                missing.push(text);
            }
        }
        missing.chunks(ENCODE_BATCH).try_for_each(|chunk| self.encode(chunk))
    }

    /// Returns the embeddings of the prompt of `task`, and of its negative prompt where guidance is on.
    ///
    /// # Errors
    /// Tokenizing or encoding one of its texts fails.
    pub fn of(&mut self, task: &'a ImageTask) -> Result<(PromptEmbeds, Option<PromptEmbeds>)> {
        let prompt_embeds = self.take(&task.job.prompt)?;
        let negative = task.job.do_classifier_free_guidance().then(|| self.take(&task.job.negative_prompt));
        Ok((prompt_embeds, negative.transpose()?))
    }

    fn take(&mut self, text: &'a str) -> Result<PromptEmbeds> {
        if !self.cache.contains_key(text) {
            self.encode(&[text])?;
        }
        let embeds = self.cache.get(text).expect("the text was just encoded").clone();
        let uses = self.uses.entry(text).or_insert(1);
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.cache.remove(text);
        }
        Ok(embeds)
    }

    fn encode(&mut self, texts: &[&'a str]) -> Result<()> {
        let mut ids = Vec::new();
        for text in texts {
            ids.extend(self.tokenizer.encode(text)?.input_ids);
        }
        let sequence = ids.len() / texts.len();
        let ids = Array2::from_shape_vec((texts.len(), sequence), ids).expect("every text has as many ids");
        let embeds = self.encoder.encode(ids.view())?;
        for (text, embeds) in texts.iter().zip(embeds.axis_iter(Axis(0))) {
            self.cache.insert(text, Arc::new(embeds.to_owned()));
        }
        Ok(())
    }
}

/// Returns the texts that an image needs: its prompt, and its negative prompt while guidance is on.
fn texts(task: &ImageTask) -> impl Iterator<Item = &str> {
    let negative = task.job.do_classifier_free_guidance().then_some(task.job.negative_prompt.as_str());
    std::iter::once(task.job.prompt.as_str()).chain(negative)
}
