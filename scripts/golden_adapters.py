"""tests/golden/adapters: every kind of LoRA configuration, as PEFT saves it, and its logits.

KIND/                  an adapter of tests/golden/tiny/bnb as PEFT saves it, B not zero
KIND.safetensors       logits of prompt 2 with it
mistakes.safetensors   KIND.MISTAKE: the same logits with one thing wrong
patterns.grad.safetensors  gradient of the mean loss over the packed documents, and each one's loss
modules.json           KIND -> module -> [r, scale], as PEFT has them

Compute is f32, as in golden_tiny.py.
"""

import json
import math
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from golden_tiny import documents, load_bnb, logits, nll, prompts, trainable

SEED = 3
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    # Ranks and alphas by name, by path and by expression; the first pattern that matches counts.
    "patterns": dict(
        r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2, "q_proj": 17, "^model.layers.0.*down_proj": 3},
        alpha_pattern={"k_proj": 5, r"layers\.[1-9]\.mlp\..*": 12},
    ),
    "patterns-rslora": dict(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["v_proj", "o_proj", "gate_proj"],
        rank_pattern={"v_proj": 2}, alpha_pattern={"1.self_attn.o_proj": 3},
    ),
    "expression": dict(r=3, lora_alpha=6, target_modules=r".*\.layers\.(?!1\.)\d+\..*(?<!o)_proj"),
    "layers": dict(r=3, lora_alpha=6, target_modules=["q_proj", "mlp.up_proj", "model.layers.0.mlp.down_proj"],
                   layers_to_transform=[1], layers_pattern="layers"),
    "excluded": dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "gate_proj"],
                     exclude_modules=["0.self_attn.q_proj", "v_proj"]),
    "excluded-expression": dict(r=3, lora_alpha=6, target_modules="all-linear",
                                exclude_modules=r".*(mlp|layers\.0)\..*"),
    "dropout-eva": dict(r=2, lora_alpha=4, lora_dropout=0.25, target_modules=["up_proj"]),
}
# Each a mistake that dayrun could make.
KEPT = {"patterns": ["scale_of_one_module", "alpha_pattern_ignored", "one_scale_for_a_group"],
        "patterns-rslora": ["scale_of_the_default_rank"]}


def with_b(model, config):
    """An adapter whose B is not zero."""
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_A" in name:
                p.copy_((torch.rand(p.shape, generator=g) * 2 - 1) * p.shape[1] ** -0.5)
            elif "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.25)
    return peft.eval()


def save(peft, out, config):
    """As PEFT saves it, in a form that is the same on every machine."""
    peft.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    path = out / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["base_model_name_or_path"] = "tiny"
    for name in ("target_modules", "exclude_modules"):
        if isinstance(saved[name], list):
            saved[name] = sorted(saved[name])
    # PEFT sorts; the order of the patterns is what the adapter was made with.
    for name in ("rank_pattern", "alpha_pattern"):
        saved[name] = config.get(name, {})
    if out.name == "dropout-eva":
        saved["init_lora_weights"] = "eva"  # leaves the base alone, as saved by such a training
    path.write_text(json.dumps(saved, indent=2) + "\n")


def lora_modules(peft):
    return {n.replace("base_model.model.", ""): m for n, m in peft.named_modules()
            if isinstance(getattr(m, "scaling", None), dict) and m.scaling}


def mistakes(peft, ids):
    """Name -> logits with one thing wrong; a pattern ignored keeps the adapter's own ranks."""
    modules, out = lora_modules(peft), {}

    def with_scales(name, scales):
        kept = {n: m.scaling["default"] for n, m in modules.items()}
        for n, s in scales.items():
            modules[n].scaling["default"] = s
        out[name] = logits(peft, ids)
        for n, s in kept.items():
            modules[n].scaling["default"] = s

    config = peft.peft_config["default"]
    root = math.sqrt if config.use_rslora else float
    one = "model.layers.0.self_attn.v_proj"
    with_scales("scale_of_one_module", {one: modules[one].scaling["default"] * 1.1})
    with_scales("alpha_pattern_ignored", {n: config.lora_alpha / root(m.r["default"]) for n, m in modules.items()})
    with_scales("scale_of_the_default_rank",
                {n: m.lora_alpha["default"] / root(config.r) for n, m in modules.items()})
    with_scales("one_scale_for_a_group", {n: modules[n.replace("k_proj", "q_proj")].scaling["default"]
                                          for n in modules if "k_proj" in n} or {one: 1.0})
    return out


def make(golden, log):
    out = golden / "adapters"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    bnb, ids = golden / "tiny/bnb", prompts(SEED)[2]
    base = logits(load_bnb(bnb), ids)
    table, wrong = {}, {}
    for name, config in KINDS.items():
        peft = with_b(load_bnb(bnb), config)
        save(peft, out / name, config)
        peft = PeftModel.from_pretrained(load_bnb(bnb), out / name).eval()
        right = logits(peft, ids)
        save_file({"logits": right, "ids": ids.int()}, out / f"{name}.safetensors")
        table[name] = {n: [m.r["default"], m.scaling["default"]] for n, m in sorted(lora_modules(peft).items())}
        log(f"{name}: {len(table[name])} modules, moves logits by up to {float((right - base).abs().max() / base.std()):.2f} std")
        if name.startswith("patterns"):
            for mistake, values in mistakes(peft, ids).items():
                apart = float((values - right).abs().max() / right.std())
                log(f"  planted {mistake}: {apart:.3g} of the std")
                if mistake in KEPT[name]:
                    wrong[f"{name}.{mistake}"] = values
        if name == "patterns":
            gradients(PeftModel.from_pretrained(load_bnb(bnb), out / name, is_trainable=True).eval(), out)
    save_file(wrong, out / "mistakes.safetensors")
    (out / "modules.json").write_text(json.dumps(table, indent=1) + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    log(f"{size / 1e3:.0f} kB in {out.name}/")


def gradients(peft, out):
    params, docs, tensors = trainable(peft), documents(SEED), {}
    sums = [nll(peft, ids, mask) for ids, mask in docs]
    (sum(sums) / sum(int(m.sum()) for _, m in docs)).backward()
    for i, s in enumerate(sums):
        tensors[f"nll.{i}"] = s.detach().reshape(1)
    short = lambda n: n.replace("base_model.model.", "").replace(".default.weight", "")
    save_file(tensors | {f"grad.{short(n)}": p.grad.clone() for n, p in params.items()}, out / "patterns.grad.safetensors")
