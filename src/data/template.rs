//! A model's chat template: Jinja as transformers runs it.
//!
//! What transformers sets and so do we: `trim_blocks`, `lstrip_blocks`, loop controls, Python's
//! methods on strings, lists and dicts, `tojson` as `json.dumps` without ASCII escapes,
//! `raise_exception`, `strftime_now`, values printed as Python prints them; variables `messages`,
//! `tools` (none if there are none), `documents` (none), `add_generation_prompt` and the special
//! tokens. `{% generation %}` blocks are transparent: the loss mask comes from rendering prefixes.
//!
//! A template's work is bounded (fuel), since it comes from the same place as the weights.

use jiff::civil;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};

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
    /// The template raised an exception of its own or failed.
    #[error("the chat template failed: {0}")]
    Render(String),
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    special: SpecialTokens,
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
        let mut env = Environment::new();
        let rules = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(rules.map_err(syntax)?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_formatter(|out, _, value| {
            out.write_str(&python::str(value)).map_err(minijinja::Error::from)
        });
        env.add_filter("tojson", to_json);
        env.add_filter("string", |value: Value| python::str(&value));
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", move |format: String| {
            jiff::fmt::strtime::format(&format, now).map_err(|e| {
                let problem = format!("strftime_now({format:?}): {e}");
                minijinja::Error::new(ErrorKind::InvalidOperation, problem)
            })
        });
        env.add_template_owned(NAME, transparent_generation(source)).map_err(syntax)?;
        Ok(Self { env, special: special.clone() })
    }

    /// The text of a conversation. With `add_generation_prompt`, up to where the assistant begins.
    ///
    /// Errors: [`TemplateError::Render`] with the template's own words and its line.
    pub fn render(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        // transformers leaves out the tokens that a model does not have.
        let token = |t: &Option<String>| t.as_ref().map_or(Value::UNDEFINED, Value::from);
        let variables = context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map_or(Value::from(()), |tools| Value::from(Serde(tools))),
            documents => Value::from(()),
            add_generation_prompt,
            bos_token => token(&self.special.bos),
            eos_token => token(&self.special.eos),
            unk_token => token(&self.special.unk),
            pad_token => token(&self.special.pad),
        };
        let template = self.env.get_template(NAME);
        template
            .and_then(|template| template.render(variables))
            .map_err(|e| TemplateError::Render(describe(&e)))
    }
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

/// `{% generation %}` and its end become an `if true`, which keeps the whitespace rules.
fn transparent_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        let sign = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from);
        let left = sign(inside.chars().next()).unwrap_or_default();
        let right = sign(inside.chars().last()).unwrap_or_default();
        let word = inside.trim_matches(|c: char| matches!(c, '-' | '+') || c.is_whitespace());
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&format!("{{%{left} if true {right}%}}")),
            "endgeneration" => out.push_str(&format!("{{%{left} endif {right}%}}")),
            _ => out.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
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
