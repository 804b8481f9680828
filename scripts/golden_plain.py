"""tests/golden/plain: plain LoRA over a base that is not quantised, by transformers and PEFT in f32.

f32/                 a small random Llama with heads of 64: linears in f32, everything else exact in bf16
adapter/             an adapter as PEFT saves it: r 4, alpha 8, all linears
golden.json          prompts, documents with loss masks
f32.safetensors      logits.N of prompt N and adapter.N with the adapter, nll.N per document, grad.MODULE.lora_A
                     and lora_B of the mean loss
bf16.safetensors     the same with the linears rounded to bf16
mistakes.safetensors adapter.3 with one thing wrong: linears quantised to NF4, one linear left out of the adapter

Run in the environment of scripts/requirements-golden.txt: python scripts/golden_plain.py
"""

import json
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import golden_tiny as tiny
import nf4_rule as rule

ROOT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "plain"
VOCAB = 96
SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, head_dim=64, tie_word_embeddings=True, rope_theta=10000.0)


def linears(model):
    return [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name]


def base():
    """As golden_tiny's, but for the linears: their values are not exact in bf16."""
    model = tiny.random_llama(SHAPE, 7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for m in linears(model):
            noise = torch.rand(m.weight.shape, generator=generator)
            m.weight.mul_(1 + (noise - 0.5) * 2.0**-7)
    return model


def fresh(change=None):
    model = tiny.random_llama(SHAPE, 0)
    model.load_state_dict(load_file(ROOT / "f32" / "model.safetensors"), strict=False)
    model.tie_weights()
    with torch.no_grad():
        for m in linears(model):
            if change is not None:
                m.weight.copy_(change(m.weight))
    return model.eval()


def golden(change, prompts, documents, name):
    model = fresh(change)
    plain = {f"logits.{i}": tiny.logits(model, ids) for i, ids in enumerate(prompts)}
    peft = PeftModel.from_pretrained(model, ROOT / "adapter", is_trainable=True).eval()
    out = ROOT / f"{name}.safetensors"
    tiny.gradient_golden(peft, plain, prompts, documents, out, print)
    adapted = {k.replace("logits", "adapter"): v for k, v in load_file(out).items()}
    save_file(plain | adapted, out)
    return load_file(out)


def nf4(weight):
    """Quantised to NF4 and decoded: what plain LoRA must not do."""
    values = weight.detach().flatten().numpy()
    codes, absmax = rule.quantise(values)
    return torch.from_numpy(rule.decode(codes, absmax)).reshape(weight.shape)


def mistakes(prompt):
    out = {}
    peft = PeftModel.from_pretrained(fresh(nf4), ROOT / "adapter").eval()
    out["nf4"] = tiny.logits(peft, prompt)
    peft = PeftModel.from_pretrained(fresh(), ROOT / "adapter").eval()
    for name, p in peft.named_parameters():
        if "layers.1.mlp.down_proj.lora_B" in name:
            torch.nn.init.zeros_(p)
    out["no_down_proj"] = tiny.logits(peft, prompt)
    return out


def main():
    tiny.VOCAB = VOCAB
    shutil.rmtree(ROOT, ignore_errors=True)
    model = base()
    model.save_pretrained(ROOT / "f32")
    tiny.relative_config(ROOT / "f32")
    config = json.loads((ROOT / "f32" / "config.json").read_text())
    (ROOT / "f32" / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    tiny.make_adapter(fresh(), ROOT / "adapter", 9, r=4, lora_alpha=8)
    prompts, documents = tiny.prompts(10), tiny.documents(11)
    text = dict(prompts=[p.tolist() for p in prompts],
                documents=[dict(ids=i.tolist(), loss_mask=m.int().tolist()) for i, m in documents])
    (ROOT / "golden.json").write_text(tiny.dumps(text))
    f32 = golden(None, prompts, documents, "f32")
    bf16 = golden(lambda w: w.bfloat16().float(), prompts, documents, "bf16")
    wrong = mistakes(prompts[3])
    save_file(wrong, ROOT / "mistakes.safetensors")
    std = f32["adapter.3"].std()
    for name, x in (wrong | {"bf16": bf16["adapter.3"]}).items():
        print(f"  {name}: {float((x - f32['adapter.3']).abs().max() / std):.3g} of the std")


if __name__ == "__main__":
    main()
