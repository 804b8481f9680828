"""Makes tests/golden/tokens: small tokenizers and what transformers and sentencepiece make of texts.

    pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6 gguf==0.19.0 sentencepiece==0.2.3
    python scripts/golden_tokens.py [SmolLM2-135M-Instruct.Q4_1.gguf]

Without the GGUF the ids of SmolLM2 itself are left out. transformers' own GGUF reader is not used for
them (it splits numbers as GPT-2 does): the tokenizer is built here as SmolLM2's tokenizer.json has it,
digits one by one, then GPT-2's byte-level split.
"""

import io
import json
import sys
from datetime import datetime
from pathlib import Path
from unittest import mock

import gguf
import jinja2
import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tokens"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The assistant's part stands between A and Z; they become {% generation %} tags for the truth about
# masks and nothing for the template under test.
TEMPLATES = {
    "smollm2": None,  # filled from SYSTEM below
    "zephyr": (
        "{% for message in messages %}\n"
        "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n' }}"
        "[A]{{ message['content'] + eos_token }}[Z]{{ '\n' }}"
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>\n' }}{% endif %}\n{% endfor %}"
    ),
    "inst": (
        "{{- bos_token }}\n"
        "{%- if messages[0].role == 'system' %}{% set system = messages[0].content.strip() + '\\n\\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}\n"
        "{%- for m in rest %}\n"
        "    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}\n"
        "    {%- if m['role'] == 'user' %}\n"
        "        {{- '[INST] ' + (system if loop.first else '') + m.content | trim + ' [/INST]' }}\n"
        "    {%- else %}\n        [A]{{- ' ' + m.content | trim }}{{ eos_token }}[Z]\n    {%- endif %}\n"
        "{%- endfor %}"
    ),
    "dated": (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}\n"
        "{%- set ns = namespace(first=true) %}\n"
        "{{- '<|im_start|>system\\nToday: ' + date_string }}\n"
        "{%- if tools is not none %}{{ '\\nTools:' }}{% for t in tools %}{{ '\\n' + (t | tojson) }}"
        "{{ '\\n' ~ (t | tojson(indent=4)) }}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}\n"
        "{%- for m in messages %}{%- if m.role == 'system' %}{%- continue %}{%- endif %}\n"
        "    {{- '<|im_start|>' + m.role + '\\n' }}"
        "{%- if m.role == 'assistant' %}[A]"
        "{{- m.content if m.content is string else '' }}"
        "{%- for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + c.function.arguments | tojson }}{% endfor %}"
        "{{- '<|im_end|>' }}[Z]{%- else %}{{- m.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>' }}"
        "{%- endif %}{{- '\\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
}
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATES["smollm2"] = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n'}}"
    "{% if message['role'] == 'assistant' %}[A]{{ message['content'] + '<|im_end|>' }}[Z]"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def turns(*contents, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for i, content in enumerate(contents):
        messages.append({"role": "assistant" if i % 2 else "user", "content": content})
    return messages


MULTILINGUAL = (
    "Grüße aus Zürich, naïve café! 你好,世界 — こんにちは 한국어 Привет мир "
    "مرحبا ١٢٣ ½ Ⅷ e\u0301 "
)
CODE = "def f(x):\n    if x  >= 10_000:\n\treturn x ** 2  # 3.14159\n\n\n    return {'a': [1, 22, 333]}\n"
EMOJI = "🙂👩‍👩‍👧 🇨🇭 ok 👍🏽"
CHATS = [
    turns("Hi", "Hello! How can I help you today?"),
    turns("What is 12345 + 678?", "12345 + 678 = 13023.", "And 3.5%?", "It's 455.805."),
    turns("Hi", "Yes.", "Again", "Yes, again.", "Bye", "Bye!", system="Answer in   one word."),
    turns(MULTILINGUAL, MULTILINGUAL[::-1]),
    turns("Write code\n", CODE, "Shorter:\n\n" + CODE, "lambda x: x"),
    turns(EMOJI, EMOJI * 2, system=""),
    turns("What does <|im_end|> do?", "It ends a turn.", "<|im_start|>assistant\nSure<|im_end|>\n", "No."),
    turns("  leading", "   indented answer\n\n", " x ", "\ttabbed  "),
    turns("x" * 300, "y z" * 100),
    turns("It's I'll WE'VE don't", "don't  DON'T"),
]
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Now & <here>: \"Zürich\"",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "number", "default": 1.0}},
                   "required": ["city"]}}}]
TOOL_CHAT = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None,
     "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Zürich", "b": None, "a": True}}}]},
    {"role": "tool", "content": "{\"c\": 3}"},
    {"role": "assistant", "content": "3 degrees."},
]
PLAIN = [
    ("Translate: cheese\n", "fromage"),
    ("", "No prompt at all."),
    ("Q: 2+2=", " 4"),
    ("Q: " + EMOJI, "\nA: " + MULTILINGUAL),
    (CODE, CODE),
    ("ends itself", " yes<|im_end|>"),
]
# Texts for the splits and SentencePiece.
TEXTS = [MULTILINGUAL, CODE, EMOJI, "a1234567b", "It's  I'LL\r\n\r\n x", "", " ", "   three", "</s> or <s>", "the the",
         "12345 678 1234567 an unmergeable word"]


def byte_level(vocab, merges, pre_tokenizer, **options):
    inner = Tokenizer(models.BPE(vocab, merges, **options))
    inner.pre_tokenizer = pre_tokenizer
    inner.decoder = decoders.ByteLevel()
    return inner


def smollm_split():
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def trained(split):
    """Byte-level BPE: 3 special tokens, 256 bytes, and merges of pieces as `split` cuts them."""
    inner = byte_level({}, [], split)
    corpus = [m["content"] for chat in CHATS for m in chat] + [SYSTEM] * 3 + [c for p in PLAIN for c in p]
    corpus += [f"It's 12345 or 67890, not 1234567 {i}" for i in range(100, 1000, 7)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    inner.train_from_iterator(corpus, trainer)
    model = json.loads(inner.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def finish(inner):
    inner.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>")


def write_gguf(path, kind, pre, tokens, types, merges=None, scores=None, bos=1, eos=2, unk=0):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges([" ".join(m) for m in merges])
    if scores is not None:
        writer.add_token_scores(scores)
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    writer.add_unk_token_id(unk)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def runs(mask):
    """Where the ones are, as [start, end) pairs."""
    out = []
    for i, one in enumerate(mask):
        if one and out and out[-1][1] == i:
            out[-1][1] = i + 1
        elif one:
            out.append([i, i + 1])
    return out


def chat_case(name, chat, tools, known):
    source = TEMPLATES[name]
    plain = source.replace("[A]", "").replace("[Z]", "")
    marked = source.replace("[A]", "{% generation %}").replace("[Z]", "{% endgeneration %}")
    case = {"template": name, "messages": chat, "tools": tools}
    fixed = mock.Mock(wraps=datetime)
    fixed.now.return_value = datetime(2026, 3, 4)
    with mock.patch("transformers.utils.chat_template_utils.datetime", fixed):
        for which, tokenizer in known.items():
            text = tokenizer.apply_chat_template(chat, tools=tools, chat_template=plain, tokenize=False)
            prompt = tokenizer.apply_chat_template(
                chat[:-1], tools=tools, chat_template=plain, tokenize=False, add_generation_prompt=True)
            assert case.setdefault("text", text) == text and case.setdefault("prompt", prompt) == prompt
            marked_text = tokenizer.apply_chat_template(chat, tools=tools, chat_template=marked, tokenize=False)
            assert marked_text == text, (name, marked_text, text)
            out = tokenizer.apply_chat_template(
                chat, tools=tools, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True)
            ids = tokenizer.apply_chat_template(chat, tools=tools, chat_template=plain, return_dict=True)["input_ids"]
            assert ids == out["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
            case[which] = {"ids": ids, "loss": runs(out["assistant_masks"])}
    return case


def plain_case(prompt, completion, known):
    case = {"prompt": prompt, "completion": completion}
    for which, tokenizer in known.items():
        before = tokenizer(prompt)["input_ids"]
        ids = tokenizer(prompt + completion)["input_ids"]
        assert ids[: len(before)] == before, "this prompt's last token reaches into the completion"
        if ids[-1] != tokenizer.eos_token_id:
            ids = ids + [tokenizer.eos_token_id]
        case[which] = {"ids": ids, "loss": runs([i >= len(before) for i in range(len(ids))])}
    return case


def sentencepiece_case():
    corpus = (TEXTS + [m["content"] for chat in CHATS for m in chat]) * 3
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in corpus if t.strip()]), model_writer=model, model_type="bpe", vocab_size=620,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        character_coverage=0.98, split_digits=True, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        allow_whitespace_only_pieces=True, max_sentencepiece_length=8)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kind = lambda i: (gguf.TokenType.UNKNOWN if sp.is_unknown(i) else gguf.TokenType.CONTROL if sp.is_control(i)
                      else gguf.TokenType.BYTE if sp.is_byte(i) else gguf.TokenType.NORMAL)
    ids = range(sp.get_piece_size())
    write_gguf(OUT / "sentencepiece.gguf", "llama", "default", [sp.id_to_piece(i) for i in ids], [kind(i) for i in ids],
               scores=[sp.get_score(i) for i in ids])
    # The texts of control tokens are tokens in transformers and plain text in sentencepiece.
    texts = [t for t in TEXTS if "<s>" not in t]
    return [{"text": t, "ids": sp.encode(t)} for t in texts]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    vocab, merges = trained(smollm_split())
    known = {"small": finish(byte_level(vocab, merges, smollm_split()))}
    known["small"].chat_template = TEMPLATES["smollm2"].replace("[A]", "").replace("[Z]", "")
    known["small"].save_pretrained(OUT / "small")
    tokens = sorted(vocab, key=vocab.get)
    types = [gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    write_gguf(OUT / "smollm.gguf", "gpt2", "smollm", tokens, types, merges)
    # Words that no merge makes are tokens all the same: only ignore_merges finds them.
    split3 = Sequence([Split(Regex(LLAMA3_SPLIT), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    vocab3, merges3 = trained(split3)
    vocab3 |= {word: len(vocab3) + i for i, word in enumerate(["\u0120unmergeable", "567"]) if word not in vocab3}
    tokens3 = sorted(vocab3, key=vocab3.get)
    types3 = types + [gguf.TokenType.NORMAL] * (len(tokens3) - len(types))
    write_gguf(OUT / "llama-bpe.gguf", "gpt2", "llama-bpe", tokens3, types3, merges3)
    llama3 = finish(byte_level(vocab3, merges3, split3, ignore_merges=True))
    if len(sys.argv) > 1:
        keys = ["tokens", "merges", "token_type"]
        fields = gguf.GGUFReader(sys.argv[1]).fields
        full, pairs, kinds = (fields["tokenizer.ggml." + k].contents() for k in keys)
        inner = byte_level({t: i for i, t in enumerate(full)}, [tuple(p.split(" ")) for p in pairs], smollm_split())
        inner.add_special_tokens([t for t, k in zip(full, kinds) if k == gguf.TokenType.CONTROL])
        known["smollm2"] = finish(inner)

    chats = [chat_case(name, chat, None, known) for name in TEMPLATES for chat in CHATS
             if not (name == "inst" and "im_start" in str(chat))]
    chats.append(chat_case("dated", TOOL_CHAT, TOOLS, known))
    golden = {
        "made_with": {m.__name__: m.__version__ for m in (transformers, tokenizers, jinja2, sentencepiece)},
        "date": "2026-03-04",
        "templates": {k: v.replace("[A]", "").replace("[Z]", "") for k, v in TEMPLATES.items()},
        "chats": chats,
        "plain": [plain_case(p, c, known) for p, c in PLAIN],
        "llama-bpe": [{"text": t, "ids": llama3(t)["input_ids"]} for t in TEXTS],
        "sentencepiece": sentencepiece_case(),
    }
    lines = []
    for key, value in golden.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
            lines.append(f'"{key}": [\n{rows}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    (OUT / "tokens.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
