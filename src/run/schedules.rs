//! Whether the schedulers can make what rows ask for: each kind of request is tried once.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::engine::schedule_request;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::recipe::Recipe;
use crate::scheduler::SchedulerConfig;

/// What was tried, and what came of it.
pub(super) struct Schedules<'a> {
    config: &'a SchedulerConfig,
    recipe: &'a Recipe,
    tried: RefCell<HashMap<String, Option<Refusal>>>,
}

/// An error in parts that can be repeated.
#[derive(Clone)]
struct Refusal {
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl<'a> Schedules<'a> {
    /// Returns a memory for schedules of the model's `config`.
    pub(super) fn new(config: &'a SchedulerConfig, recipe: &'a Recipe) -> Self {
        Schedules { config, recipe, tried: RefCell::default() }
    }

    /// Fails if the scheduler that `job` names has no such schedule.
    ///
    /// # Errors
    /// What the scheduler says.
    pub(super) fn check(&self, job: &Job) -> Result<()> {
        let request = schedule_request(self.recipe, job);
        let key = format!("{} {request:?}", job.scheduler);
        if let Some(known) = self.tried.borrow().get(&key) {
            return known.as_ref().map_or(Ok(()), |refusal| Err(refusal.error()));
        }
        let tried = self.config.select(&job.scheduler).and_then(|config| config.schedule(&request));
        let refusal = tried.err().map(|error| Refusal::of(&error));
        let result = refusal.as_ref().map_or(Ok(()), |refusal| Err(refusal.error()));
        self.tried.borrow_mut().insert(key, refusal);
        result
    }
}

impl Refusal {
    fn of(error: &Error) -> Self {
        let hint = error.how_to_fix().map(str::to_string);
        Refusal { code: error.code(), message: error.message().to_string(), hint }
    }

    fn error(&self) -> Error {
        let error = Error::new(crate::error::ErrorKind::Row, self.code, self.message.clone());
        match &self.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        }
    }
}
