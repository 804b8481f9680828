"""Makes tests/golden/templates: what transformers makes of conversations under the model families' chat templates.

    pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6 gguf==0.19.0 sentencepiece==0.2.3
    python scripts/golden_templates.py FOLDER

The templates are other people's and stay out of this repository: FOLDER holds them as .ci/run unpacks them, from a
package whose version it names. Written are the conversations (scripts/template_chats.py), one small tokenizer for each
family, as tokenizer.json and as GGUF, and for every template and conversation hashes of the text and of the token ids
and the runs of the loss mask, or the exception that the template raises.

Where a template has no {% generation %} blocks, the truth about the mask comes from a copy that has them, made here
by replacing what it writes for the assistant (MARKS); its text must be the same. The loss falls on what follows the
generation prompt, up to and with the token that ends the turn.
"""

import io
import json
import re
import sys
from datetime import datetime
from pathlib import Path
from unittest import mock

import gguf
import jinja2
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from template_chats import CHATS, TEXTS

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "templates"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
INST = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# name: special tokens, plain added tokens, bos, eos, pad, GGUF's name of the split
FAMILIES = {
    "llama3": (["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                "<|eom_id|>", "<|python_tag|>"], [], "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", "llama-bpe"),
    "smollm2": (IM, [], "<|im_start|>", "<|im_end|>", "<|im_end|>", "smollm"),
    "smollm3": (["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"],
                None, "<|im_end|>", "<|im_end|>", "smaug-bpe"),
    "qwen": (IM, ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"],
             None, "<|im_end|>", "<|endoftext|>", "qwen2"),
    "tekken": (["<unk>", "<s>", "</s>"] + INST, [], "<s>", "</s>", None, "tekken"),
    "mistral": (["<unk>", "<s>", "</s>"] + INST, [], "<s>", "</s>", None, "default"),
}

# What every template of the package renders, and whether with the generation prompt.
EVERY = [("one turn", True), ("system", False), ("white space", False), ("thinking in the past", True),
         ("a call and what it says", False), ("tools and a system prompt", True)]
GENERATION, END = "{%- generation %}", "{%- endgeneration %}"


def wrap(text):
    return GENERATION + text + END


def llama_turn(emit):
    """The turn of every role in one expression: the assistant's header apart from the rest."""
    header = "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    body = wrap("{{- message['content'] | trim + '<|eot_id|>' }}")
    return "{%- if message['role'] == 'assistant' %}" + header + body + "{%- else %}" + emit + "{%- endif %}"


LLAMA_TURN = (
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}")
LLAMA_CALL = ("{{- '{\"name\": \"' + tool_call.name + '\", ' }}", '{{- "}" }}\n')
MISTRAL_CALLS = r'(\{\{- "\[TOOL_CALLS\] ?\[" \}\}.*?\{%- endfor %\})(\s*\{%- elif message\["role"\] == "assistant" %\})'
QWEN_PLAIN = "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
CHATML_END = "{{- '<|im_end|>' }}" + END + "{{- '\\n' }}"
# template: its tokenizer, and what is replaced to mark the assistant's text (a pattern is a compiled one)
MARKS = {
    "NousResearch-Meta-Llama-3-8B-Instruct": ("llama3", [
        ("{{ content }}", "{% if message['role'] == 'assistant' %}{% set answer = message['content'] | trim + '<|eot_id|>' %}{{ content[:(content | length) - (answer | length)] }}"
         "{% generation %}{{ answer }}{% endgeneration %}{% else %}{{ content }}{% endif %}")]),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3", [
        (LLAMA_TURN, llama_turn(LLAMA_TURN)), (LLAMA_CALL[0], GENERATION + LLAMA_CALL[0]), (LLAMA_CALL[1], LLAMA_CALL[1] + END),
        ('{%- else %}\n            {{- "<|eot_id|>" }}', "{%- else %}" + wrap('{{- "<|eot_id|>" }}'))]),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3", [
        (LLAMA_TURN, llama_turn(LLAMA_TURN)), (LLAMA_CALL[0], GENERATION + LLAMA_CALL[0]),
        (LLAMA_CALL[1] + '        {{- "<|eot_id|>" }}', LLAMA_CALL[1] + '{{- "<|eot_id|>" }}' + END)]),
    "mistralai-Mistral-7B-Instruct-v0.2": ("mistral", [(re.compile(r"\{\{- ' ' \+ message\['content'\] \+ eos_token\}\}"), wrap)]),
    "mistralai-Mistral-7B-Instruct-v0.3": ("mistral", [
        (re.compile(r'\{\{- " " \+ message\["content"\]\|trim \+ eos_token\}\}'), wrap), (re.compile(MISTRAL_CALLS, re.S), None)]),
    "mistralai-Mistral-Nemo-Instruct-2407": ("tekken", [
        (re.compile(r'\{\{- message\["content"\] \+ eos_token\}\}'), wrap), (re.compile(MISTRAL_CALLS, re.S), None)]),
    "Qwen-Qwen2.5-7B-Instruct": ("qwen", [
        (QWEN_PLAIN, "{%- if message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}" + wrap(
            "{{- message.content + '<|im_end|>' }}") + "{{- '\\n' }}{%- else %}" + QWEN_PLAIN + "{%- endif %}"),
        ("{{- '<|im_start|>' + message.role }}", "{{- '<|im_start|>' + message.role + '\\n' }}" + GENERATION),
        ("{{- '\\n' + message.content }}", "{{- message.content }}"),
        ("{{- '\\n<tool_call>\\n{\"name\": \"' }}",
         "{{- '' if loop.first and not message.content else '\\n' }}{{- '<tool_call>\\n{\"name\": \"' }}"),
        ("{%- endfor %}\n        {{- '<|im_end|>\\n' }}", "{%- endfor %}" + CHATML_END)]),
    "Qwen-Qwen3-0.6B": ("qwen", [
        # Empty reasoning that the generation prompt ends with is not the assistant's.
        ("{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}",
         "{{- '<|im_start|>' + message.role + '\\n' }}"
         "{%- set reasoning = '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' %}"
         "{%- if enable_thinking is defined and enable_thinking is false and not reasoning_content %}{{- reasoning }}"
         "{%- else %}" + wrap("{{- reasoning }}") + "{%- endif %}{%- set shown = content.lstrip('\\n') %}"),
        ("{{- '<|im_start|>' + message.role + '\\n' + content }}",
         "{{- '<|im_start|>' + message.role + '\\n' }}{%- set shown = content %}"),
        # One block up to the turn's end: transformers loses the last bytes of a block that ends inside a character.
        ("{%- if message.tool_calls %}", GENERATION + "{{- shown }}{%- if message.tool_calls %}"),
        ("{%- endfor %}\n        {%- endif %}\n        {{- '<|im_end|>\\n' }}", "{%- endfor %}{%- endif %}" + CHATML_END)]),
    "HuggingFaceTB-SmolLM2-135M-Instruct": ("smollm2", [
        ("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
         "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
         "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
         "{% endif %}{{ '\n' }}")]),
    # With generation blocks of its own.
    "HuggingFaceTB-SmolLM3-3B@3e0e27": ("smollm3", []),
    "HuggingFaceTB-SmolLM3-3B": ("smollm3", [
        ('{{ "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}', '{{ "<|im_start|>assistant\\n" }}'
         '{%- generation -%}{{ content.lstrip("\\n") + "<|im_end|>" }}{%- endgeneration -%}{{ "\\n" }}'),
        ('{{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" + content.lstrip("\\n") + "<|im_end|>\\n" }}',
         '{{ "<|im_start|>assistant\\n" + "<think>\\n\\n</think>\\n" }}'
         '{%- generation -%}{{ content.lstrip("\\n") + "<|im_end|>" }}{%- endgeneration -%}{{ "\\n" }}')]),
}


def marked(name, source):
    for old, new in MARKS[name][1]:
        if isinstance(old, re.Pattern):
            if new is None:
                new = lambda m: wrap(m[1]) + m[2]
            elif new is wrap:
                new = lambda m: wrap(m[0])
            source, times = old.subn(new, source)
            assert times, (name, old)
        else:
            assert old in source, (name, old)
            source = source.replace(old, new)
    return source


def corpus():
    texts = list(TEXTS)
    for chat in CHATS.values():
        texts += [m["content"] for m in chat["messages"] if m["content"]]
    return [t for t in texts if len(t) < 500 and t.strip()] + [f"It's 12345 or 67890, not 1234567 {i}" for i in range(100, 1000, 50)]


def byte_level(name, special, plain, bos, split):
    """Byte-level BPE with the family's split: the added tokens first, then 256 bytes, then merges."""
    inner = Tokenizer(models.BPE({}, []))
    inner.pre_tokenizer = split
    trainer = trainers.BpeTrainer(vocab_size=len(special + plain) + 256 + 60, special_tokens=special + plain,
                                  initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
    inner.train_from_iterator(corpus(), trainer)
    model = json.loads(inner.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    whole = name in ("llama3", "smollm3", "tekken")
    if whole:
        # A word that no merge makes is a token all the same.
        vocab["\u0120unmergeable"] = len(vocab)
    inner = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole))
    inner.pre_tokenizer, inner.decoder = split, decoders.ByteLevel()
    if name == "qwen":
        inner.normalizer = normalizers.NFC()
    if name in ("llama3", "tekken"):
        inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    return inner, vocab, merges, None


def mistral(special):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus() * 3), model_writer=model, model_type="bpe", vocab_size=256 + len(special) + 220,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        character_coverage=0.98, split_digits=True, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        allow_whitespace_only_pieces=True, max_sentencepiece_length=8, control_symbols=special[3:])
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())]
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    assert [p for p, _ in pieces[:len(special)]] == special
    scores = {p: s for p, s in pieces if not (p in special or p.startswith("<0x"))}
    inner = Tokenizer(models.BPE(vocab, generate_merges(vocab, scores), byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return inner, vocab, None, [s for _, s in pieces]


SPLITS = {
    "smollm2": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
    **{name: Sequence([Split(Regex(regex), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
       for name, regex in {"llama3": LLAMA3, "smollm3": LLAMA3, "qwen": LLAMA3.replace("{1,3}", ""), "tekken": TEKKEN}.items()},
}


def family(name):
    special, plain, bos, eos, pad, pre = FAMILIES[name]
    if name == "mistral":
        inner, vocab, merges, scores = mistral(special)
    else:
        inner, vocab, merges, scores = byte_level(name, special, plain, bos, SPLITS[name])
    inner.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    inner.add_tokens([AddedToken(t, normalized=False, special=False) for t in plain])
    known = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": "<unk>" if "<unk>" in special else None}
    known = {k: v for k, v in known.items() if v}
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(inner.to_str(pretty=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **known}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    writer.add_tokenizer_model("llama" if scores else "gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = sorted(vocab, key=vocab.get)
    kinds = gguf.TokenType
    writer.add_token_list(tokens)
    writer.add_token_types([
        kinds.UNKNOWN if t == "<unk>" else kinds.CONTROL if t in special else kinds.USER_DEFINED if t in plain else
        kinds.BYTE if scores and t.startswith("<0x") else kinds.NORMAL for t in tokens])
    if scores:
        writer.add_token_scores(scores)
    else:
        writer.add_token_merges([" ".join(m) for m in merges])
    if bos:
        writer.add_bos_token_id(vocab[bos])
    writer.add_eos_token_id(vocab[eos])
    if pad:
        writer.add_pad_token_id(vocab[pad])
    if name != "llama3" and name != "tekken":
        writer.add_add_bos_token(name == "mistral")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **known)


def fnv(data):
    out = 0xCBF29CE484222325
    for byte in data:
        out = (out ^ byte) * 0x100000001B3 % 2**64
    return f"{out:016x}"


def runs(mask):
    """Where the ones are, as [start, end) pairs in one list."""
    out = []
    for i, one in enumerate(mask):
        if one and out and out[-1] == i:
            out[-1] = i + 1
        elif one:
            out += [i, i + 1]
    return out


def expected(name, source, tokenizer, chat):
    arguments = {"tools": chat.get("tools"), **chat.get("variables", {})}
    apply = tokenizer.apply_chat_template
    try:
        text = apply(chat["messages"], chat_template=source, tokenize=False, **arguments)
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"raises": str(error)} if raised else {"fails": type(error).__name__}
    except TypeError as error:
        return {"fails": type(error).__name__}
    truth = marked(name, source)
    same = apply(chat["messages"], chat_template=truth, tokenize=False, **arguments)
    assert same == text, (name, chat, same, text)
    out = apply(chat["messages"], chat_template=truth, return_dict=True, return_assistant_tokens_mask=True, **arguments)
    ids = out["input_ids"]
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    data = b"".join(i.to_bytes(4, "little") for i in ids)
    return {"text": fnv(text.encode()), "tokens": len(ids), "ids": fnv(data), "loss": runs(out["assistant_masks"])}


def everything(folder, tokenizer):
    """Every template of the package over a few conversations, with and without the generation prompt: 32 bits of the
    text's hash, or why there is none."""
    rows = {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes().decode()
        row = []
        for chat, prompt in EVERY:
            chat = CHATS[chat]
            arguments = {"tools": chat.get("tools"), "add_generation_prompt": prompt, **chat.get("variables", {})}
            try:
                text = tokenizer.apply_chat_template(chat["messages"], chat_template=source, tokenize=False, **arguments)
                row.append(fnv(text.encode())[8:])
            except Exception as error:
                raised = type(error) is jinja2.exceptions.TemplateError
                row.append("raises" if raised else "fails")
        rows[path.name.removesuffix(".jinja")] = " ".join(row)
    return rows


def dump(path, value):
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}" for k, v in value.items())
    path.write_text("{\n" + rows + "\n}\n")


def main():
    folder = Path(sys.argv[1])
    tokenizers = {name: family(name) for name in FAMILIES}
    dump(OUT / "chats.json", CHATS)
    dump(OUT / "texts.json", {text: {name: t(text)["input_ids"] for name, t in tokenizers.items()} for text in TEXTS})
    fixed = mock.Mock(wraps=datetime)
    fixed.now.return_value = datetime(2026, 3, 4)
    rows = {}
    with mock.patch("transformers.utils.chat_template_utils.datetime", fixed):
        for name, (tokenizer, _) in MARKS.items():
            source = (folder / f"{name}.jinja").read_text()
            for chat, content in CHATS.items():
                row = expected(name, source, tokenizers[tokenizer], content)
                rows[f"{name} | {chat}"] = {"with": tokenizer, **row}
        every = everything(folder, tokenizers["tekken"])
    dump(OUT / "expected.json", rows)
    dump(OUT / "every.json", {"chats": [f"{chat} | {prompt}" for chat, prompt in EVERY], **every})
    print(len(rows), "compared;", sum("raises" in r for r in rows.values()), "raise;", [k for k, r in rows.items() if "fails" in r])


main()
