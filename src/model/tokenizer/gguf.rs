//! A tokenizer rebuilt from a GGUF's metadata.
//!
//! A GGUF holds tokens, their types, merges or scores, and the *name* of the way text is split
//! before merging (`tokenizer.ggml.pre`). The split is not in the file, so a name that is not known
//! here is refused: with a wrong split most text still looks right, and numbers do not.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::{Error, Parts, Problem, SpecialTokens, guard};
use crate::model::gguf::{Gguf, Value};

/// ggml's token types.
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// Llama 3's split: contractions, words with at most one leading sign, numbers of up to three
/// digits, signs, line ends, spaces.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen2's split: Llama 3's, with each digit by itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's tekken split: a word ends where a capital follows a small letter; digits by themselves;
/// slashes stay with the signs before them.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's split, the last of llama.cpp's default ones.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// A view of the metadata that names the file and the key in every error.
struct Keys<'a>(&'a Gguf);

impl Keys<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Key { path: self.0.path.clone(), key: key.into(), problem: problem.into() }
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.error(key, "is not a text")),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.error(key, "is not true or false")),
        }
    }

    /// Each element of an array through `take`, which gives `None` for a wrong type.
    fn array<T>(&self, key: &str, take: fn(Value) -> Option<T>) -> Result<Option<Vec<T>>, Error> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let items: Option<Vec<T>> = array.iter().map(take).collect();
                let items = items.filter(|items| items.len() == array.len());
                items.map(Some).ok_or_else(|| self.error(key, "has elements of a wrong type"))
            }
            Some(_) => Err(self.error(key, "is not an array")),
        }
    }

    /// A token id, and the text of that token.
    fn token(&self, key: &str, tokens: &[String]) -> Result<Option<(u32, String)>, Error> {
        match self.0.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(id)) => {
                let token = usize::try_from(*id).ok().and_then(|id| tokens.get(id));
                let token = token.ok_or_else(|| {
                    self.error(key, format!("is {id}, there are {} tokens", tokens.len()))
                })?;
                Ok(Some((*id as u32, token.clone())))
            }
            Some(_) => Err(self.error(key, "is not a token id")),
        }
    }
}

pub(super) fn read(file: &Gguf) -> Result<Parts, Error> {
    let keys = Keys(file);
    let text = |v| if let Value::String(text) = v { Some(text) } else { None };
    let key = "tokenizer.ggml.tokens";
    let tokens = keys.array(key, text)?.ok_or_else(|| keys.error(key, "is missing"))?;
    let mut vocab: HashMap<String, u32> = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        let id = u32::try_from(id).map_err(|_| keys.error(key, "has too many elements"))?;
        if let Some(other) = vocab.insert(token.clone(), id) {
            return Err(keys.error(key, format!("has {token:?} twice, at {other} and {id}")));
        }
    }
    let key = "tokenizer.ggml.token_type";
    let types = keys.array(key, |v| if let Value::Int(n) = v { Some(n) } else { None })?;
    let types = types.unwrap_or_else(|| vec![1; tokens.len()]);
    if types.len() != tokens.len() {
        let problem = format!("has {} elements for {} tokens", types.len(), tokens.len());
        return Err(keys.error(key, problem));
    }

    let kind = keys.text("tokenizer.ggml.model")?;
    let kind = kind.ok_or_else(|| keys.error("tokenizer.ggml.model", "is missing"))?;
    let pre = keys.text("tokenizer.ggml.pre")?.unwrap_or_else(|| "default".into());
    let mut unk = keys.token("tokenizer.ggml.unknown_token_id", &tokens)?;
    if unk.is_none() && kind == "llama" {
        unk = vocab.get_key_value("<unk>").map(|(token, &id)| (id, token.clone()));
    }
    let build = || match kind.as_str() {
        "gpt2" => byte_level(&keys, &vocab, &pre),
        "llama" => sentencepiece(&keys, &tokens, &vocab, unk.as_ref().map(|(_, t)| t.clone())),
        other => Err(keys.unsupported(format!("tokenizer.ggml.model \"{other}\""))),
    };
    let mut inner = build()?;
    let added = tokens.iter().zip(&types).filter_map(|(token, &kind)| {
        let special = match kind {
            UNKNOWN | CONTROL => true,
            USER_DEFINED => false,
            _ => return None,
        };
        // Plain added tokens must be found in the text as it is, too.
        Some(AddedToken::from(token.clone(), special).normalized(false))
    });
    let added: Vec<_> = added.filter(|token| !token.content.is_empty()).collect();
    keys.guard("adding its tokens", || inner.add_tokens(added))?;

    let bos = keys.token("tokenizer.ggml.bos_token_id", &tokens)?;
    let eos = keys.token("tokenizer.ggml.eos_token_id", &tokens)?;
    let pad = keys.token("tokenizer.ggml.padding_token_id", &tokens)?;
    let mut stop = Vec::new();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        stop.extend(keys.token(key, &tokens)?.map(|(id, _)| id));
    }
    // Files that do not say: llama.cpp adds BOS for SentencePiece, for Llama 3 and for tekken.
    let bos_by_default = kind == "llama" || matches!(pre.as_str(), "llama-bpe" | "tekken");
    let text = |token: Option<(u32, String)>| token.map(|(_, text)| text);
    Ok(Parts {
        path: file.path.clone(),
        inner,
        special: SpecialTokens { bos: text(bos), eos: text(eos), unk: text(unk), pad: text(pad) },
        stop,
        add_bos: Some(keys.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default)),
        add_eos: Some(keys.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false)),
        chat_template: keys.text("tokenizer.chat_template")?,
    })
}

impl Keys<'_> {
    fn unsupported(&self, what: String) -> Error {
        Error::Unsupported { path: self.0.path.clone(), what }
    }

    fn guard<T>(
        &self,
        doing: &'static str,
        f: impl FnOnce() -> tokenizers::Result<T>,
    ) -> Result<T, Error> {
        guard(&self.0.path, doing, f).map_err(|problem| match problem {
            Problem::Panic(error) => error,
            Problem::Library(problem) => Error::Build { path: self.0.path.clone(), problem },
        })
    }

    /// `tokenizer.ggml.merges`: pairs with a space between.
    fn merges(&self) -> Result<Option<Vec<(String, String)>>, Error> {
        let key = "tokenizer.ggml.merges";
        let lines = self.array(key, |v| if let Value::String(s) = v { Some(s) } else { None })?;
        let Some(lines) = lines else { return Ok(None) };
        let mut merges = Vec::with_capacity(lines.len());
        for (i, line) in lines.iter().enumerate() {
            let (a, b) = line
                .split_once(' ')
                .filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '))
                .ok_or_else(|| self.error(key, format!("[{i}] is {line:?}, not a pair")))?;
            merges.push((a.to_string(), b.to_string()));
        }
        Ok(Some(merges))
    }
}

/// Byte-level BPE, as GPT-2, SmolLM, Llama 3, Qwen2 and Mistral's tekken have it. `smaug-bpe` is what
/// llama.cpp calls Llama 3's tokenizer without a BOS: SmolLM3's.
fn byte_level(keys: &Keys, vocab: &HashMap<String, u32>, pre: &str) -> Result<Tokenizer, Error> {
    let split = |regex: &str| {
        let pattern = SplitPattern::Regex(regex.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        split.map(PreTokenizerWrapper::from)
    };
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let steps = keys.guard("splitting", || {
        Ok(Some(match pre {
            "smollm" => vec![Digits::new(true).into(), bytes(true)],
            "llama-bpe" | "smaug-bpe" => vec![split(LLAMA3)?, bytes(false)],
            "qwen2" => vec![split(QWEN2)?, bytes(false)],
            "tekken" => vec![split(TEKKEN)?, bytes(false)],
            "default" => {
                let steps = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];
                let steps: tokenizers::Result<Vec<_>> = steps.into_iter().map(split).collect();
                let mut steps = steps?;
                steps.push(bytes(false));
                steps
            }
            _ => return Ok(None),
        }))
    })?;
    let Some(steps) = steps else {
        return Err(keys.unsupported(format!("the pre-tokenizer \"{pre}\"")));
    };
    // These vocabularies were not made by their merges: a word that is a token stays whole.
    let ignore_merges = matches!(pre, "llama-bpe" | "smaug-bpe" | "tekken");
    let key = "tokenizer.ggml.merges";
    let merges = keys.merges()?.ok_or_else(|| keys.error(key, "is missing"))?;
    let bpe = keys.guard("building it", || {
        BPE::builder()
            .vocab_and_merges(vocab.clone().into_iter().collect::<Vocab>(), merges)
            .ignore_merges(ignore_merges)
            .build()
    })?;
    let mut inner = Tokenizer::new(bpe);
    if pre == "qwen2" {
        // llama.cpp leaves a composed and a decomposed é apart; Qwen's own tokenizer does not.
        keys.guard("building it", || inner.with_normalizer(Some(NFC)).map(|_| ()))?;
    }
    inner.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    inner.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok(inner)
}

/// SentencePiece's BPE, as Llama 2 has it: spaces as `▁`, one put before each text, bytes for
/// characters that are not in the vocabulary, merges in the order of the tokens' scores.
fn sentencepiece(
    keys: &Keys,
    tokens: &[String],
    vocab: &HashMap<String, u32>,
    unk: Option<String>,
) -> Result<Tokenizer, Error> {
    let merges = match keys.merges()? {
        Some(merges) => merges,
        None => merges_from_scores(keys, tokens, vocab)?,
    };
    let prepend = keys.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let bpe = keys.guard("building it", || {
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab.clone().into_iter().collect::<Vocab>(), merges)
            .byte_fallback(true)
            .fuse_unk(true);
        if let Some(unk) = unk {
            builder = builder.unk_token(unk);
        }
        builder.build()
    })?;
    let mut inner = Tokenizer::new(bpe);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> = Vec::new();
    let (to_mark, to_space) =
        keys.guard("building it", || Ok((Replace::new(" ", "▁")?, Replace::new("▁", " ")?)))?;
    if prepend {
        normalizers.push(Prepend::new("▁".into()).into());
    }
    normalizers.push(to_mark.into());
    decoders.extend([to_space.into(), ByteFallback::new().into(), Fuse::new().into()]);
    if prepend {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    keys.guard("building it", || {
        inner.with_normalizer(Some(Normalizers::new(normalizers))).map(|_| ())
    })?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Every way to cut a token into two tokens is a merge; the token's score, its rank.
fn merges_from_scores(
    keys: &Keys,
    tokens: &[String],
    vocab: &HashMap<String, u32>,
) -> Result<Vec<(String, String)>, Error> {
    let key = "tokenizer.ggml.scores";
    let scores = keys.array(key, |v| match v {
        Value::Float(x) if !x.is_nan() => Some(x),
        _ => None,
    })?;
    let scores = scores.ok_or_else(|| keys.error(key, "is missing, and so are merges"))?;
    if scores.len() != tokens.len() {
        let problem = format!("has {} elements for {} tokens", scores.len(), tokens.len());
        return Err(keys.error(key, problem));
    }
    // transformers' order: by score, then by the lengths of the parts, highest first; among equals,
    // tokens in the vocabulary's order and their cuts by the ids of the parts.
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(&scores) {
        let mut cuts: Vec<(u32, u32, &str, &str)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (a, b) = token.split_at(at);
                Some((*vocab.get(a)?, *vocab.get(b)?, a, b))
            })
            .collect();
        cuts.sort_by_key(|&(a, b, ..)| (a, b));
        merges.extend(cuts.into_iter().map(|(_, _, a, b)| (score, a, b)));
    }
    let chars = |s: &str| s.chars().count();
    merges.sort_by(|x, y| {
        let lengths = (chars(y.1), chars(y.2)).cmp(&(chars(x.1), chars(x.2)));
        y.0.total_cmp(&x.0).then(lengths)
    });
    Ok(merges.into_iter().map(|(_, a, b)| (a.to_string(), b.to_string())).collect())
}
