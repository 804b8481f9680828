//! A model's chat template: Jinja as transformers runs it.
//!
//! What transformers sets and so do we: `trim_blocks`, `lstrip_blocks`, loop controls, Python's
//! methods on strings, lists and dicts, `tojson` as `json.dumps` without ASCII escapes,
//! `raise_exception`, `strftime_now`, `dict`, values printed as Python prints them; variables
//! `messages` (without their keys that are null), `tools` (none if there are none), `documents` (none),
//! `add_generation_prompt`, the special tokens, and what the run file's `data.template_kwargs` adds.
//! `{% generation %}` blocks say which text is the assistant's ([`super::generation`]).
//!
//! A template's work is bounded (fuel), since it comes from the same place as the weights.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::civil;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Map, Value as Json};

use super::generation;
pub use super::generation::Rendered;
use super::python;
use crate::model::tokenizer::SpecialTokens;

/// Instructions, and blocks of 64 bytes made, that one rendering may take.
const FUEL: u64 = 20_000_000;

const NAME: &str = "chat template";

/// A chat template that cannot be parsed, or a conversation that it cannot render.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Malformed, or a Jinja feature that is not supported here.
    #[error("cannot be read: {0}")]
    Syntax(String),
    /// The template called `raise_exception`: its own words.
    #[error("the chat template refuses this conversation: {0}")]
    Raised(String),
    /// The template ran out of fuel.
    #[error("the chat template does not end: it was stopped after {FUEL} steps")]
    Endless,
    /// The template failed.
    #[error("the chat template failed: {0}")]
    Render(String),
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    /// The variables that are the same for every conversation.
    variables: Map<String, Json>,
    marks_assistant: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `date` is what `strftime_now` says; `None`: the local time at this call,
    /// the same for every row.
    ///
    /// Errors: [`TemplateError::Syntax`] with the line and what is not understood.
    pub fn new(
        source: &str,
        special: &SpecialTokens,
        date: Option<civil::Date>,
    ) -> Result<Self, TemplateError> {
        let now = match date {
            Some(date) => date.to_datetime(civil::Time::midnight()),
            None => jiff::ZonedDateTime::now().datetime(),
        };
        let syntax = |e: minijinja::Error| TemplateError::Syntax(describe(&e));
        let (source, marks_assistant) = generation::rewrite(source);
        let mut env = environment(now).map_err(syntax)?;
        env.add_template_owned(NAME, source).map_err(syntax)?;
        // transformers leaves out the tokens that a model does not have.
        let SpecialTokens { bos, eos, unk, pad } = special;
        let tokens =
            [("bos_token", bos), ("eos_token", eos), ("unk_token", unk), ("pad_token", pad)];
        let given = tokens.into_iter().filter_map(|(name, token)| Some((name, token.clone()?)));
        let variables = given.map(|(name, token)| (name.into(), token.into())).collect();
        Ok(Self { env, variables, marks_assistant })
    }

    /// With more variables, such as `enable_thinking`; they win over the special tokens, and over the
    /// variables of a conversation (`tools`) where those have nothing to say.
    #[must_use]
    pub fn with_variables(mut self, variables: &Map<String, Json>) -> Self {
        self.variables.extend(variables.clone());
        self
    }

    /// Whether it has `{% generation %}` blocks.
    pub fn marks_assistant(&self) -> bool {
        self.marks_assistant
    }

    /// The text of a conversation. With `add_generation_prompt`, up to where the assistant begins.
    ///
    /// Errors: [`TemplateError`], with the template's own words and its line.
    pub fn render(
        &self,
        messages: &[Json],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        Ok(self.render_marked(messages, tools, add_generation_prompt)?.text)
    }

    /// As [`ChatTemplate::render`], with where the generation blocks' text lies.
    ///
    /// Errors: as there; a conversation that holds the characters which mark blocks (U+FDD0, U+FDD1).
    pub fn render_marked(
        &self,
        messages: &[Json],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let failed = |problem: &str| TemplateError::Render(problem.into());
        let mut given = messages.iter().chain(tools);
        if self.marks_assistant && given.any(generation::holds_marks) {
            return Err(failed("the row holds U+FDD0 or U+FDD1, which are no characters"));
        }
        // transformers hands a template no key that is null: most cannot tell it from a missing one.
        let stated: Cow<[Json]> = match messages.iter().any(has_nulls) {
            true => messages.iter().map(without_nulls).collect(),
            false => messages.into(),
        };
        let fixed =
            self.variables.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let mut variables: BTreeMap<&str, Value> = fixed.collect();
        variables.insert("messages", Value::from(Serde(&*stated)));
        variables.insert("add_generation_prompt", add_generation_prompt.into());
        variables.entry("documents").or_insert(().into());
        match tools {
            Some(tools) => _ = variables.insert("tools", Value::from(Serde(tools))),
            None => _ = variables.entry("tools").or_insert(().into()),
        }
        let template = self.env.get_template(NAME);
        let text = template.and_then(|template| template.render(variables)).map_err(|e| why(&e))?;
        if !self.marks_assistant {
            return Ok(Rendered { text, generated: Vec::new() });
        }
        generation::split(&text).ok_or_else(|| failed("it cuts its generation blocks apart"))
    }
}

/// Everything that transformers gives a template.
fn environment(now: civil::DateTime) -> Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(python::method);
    env.set_formatter(|out, _, value| {
        out.write_str(&python::str(value)).map_err(minijinja::Error::from)
    });
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| python::str(&value));
    env.add_filter("trim", python::trim);
    // None cannot be iterated over: `tools is iterable` asks for that.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_filter(generation::FILTER, |body: String| generation::mark(&body));
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        let error = minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception");
        Err(error.with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: String| {
        jiff::fmt::strtime::format(&format, now).map_err(|e| {
            let problem = format!("strftime_now({format:?}): {e}");
            minijinja::Error::new(ErrorKind::InvalidOperation, problem)
        })
    });
    Ok(env)
}

fn has_nulls(message: &Json) -> bool {
    message.as_object().is_some_and(|fields| fields.values().any(Json::is_null))
}

/// A message without its keys that are null.
fn without_nulls(message: &Json) -> Json {
    match message {
        Json::Object(fields) => {
            let stated = fields.iter().filter(|(_, value)| !value.is_null());
            Json::Object(stated.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        other => other.clone(),
    }
}

/// Which of the ways to fail this was.
fn why(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        let kind = error.downcast_ref::<minijinja::Error>().map(minijinja::Error::kind);
        if kind == Some(ErrorKind::OutOfFuel) {
            return TemplateError::Endless;
        }
        cause = error.source();
    }
    TemplateError::Render(describe(error))
}

/// The error's own words, its line, and its cause.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(value: Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let mut style = python::JsonStyle {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: None,
        separators: None,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    let indent = kwargs.get::<Option<Value>>("indent")?.filter(|v| !v.is_none());
    if let Some(indent) = indent {
        style.indent = Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
        });
    }
    if let Some(list) = kwargs.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(list).map_err(|_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts")
        })?;
        style.separators = Some((item, key));
    }
    kwargs.assert_all_used()?;
    let text = style.dump(&value).map_err(|problem| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {problem}"))
    })?;
    Ok(Value::from(text))
}
