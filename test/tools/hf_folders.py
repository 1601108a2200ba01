"""The tiny LLaVA of test/fixtures/llava in folders of every layout, in float32 and bfloat16, in one file and in shards, with what
transformers computes from those weights in float32.

    python3 test/tools/hf_folders.py OUT

    OUT/DTYPE/reference.safetensors   logits at labelled positions and gradients, by neva's names
    OUT/DTYPE/reference.json          loss, greedy tokens
    OUT/DTYPE/LAYOUT/                 saved, saved_shards, saved_bin, new_shards, original, original_bare, llm_shards, vision, clip_shards
"""
import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, LlamaForCausalLM, LlavaForConditionalGeneration

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "llava"
IMAGE = 95
torch.set_num_threads(1)
torch.manual_seed(20260404)


def own_name(name: str) -> str:
    """llava-hf's name up to transformers 4.51, which is neva's."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return "language_model." + name
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


def new_name(own: str) -> str:
    """In transformers from 4.52 on."""
    if own.startswith("language_model.lm_head."):
        return own.removeprefix("language_model.")
    return "model." + own.replace("language_model.model.", "language_model.", 1)


def original_name(own: str) -> str:
    """In LLaVA's own code."""
    own = own.removeprefix("language_model.")
    own = re.sub(r"^vision_tower\.", "model.vision_tower.vision_tower.", own)
    return re.sub(r"^multi_modal_projector\.linear_(\d)", lambda m: f"model.mm_projector.{2 * int(m[1]) - 2}", own)


def reference(model, out: Path) -> None:
    batch = load_file(FIXTURE / "reference.safetensors")
    keys = ["input_ids", "attention_mask", "labels", "pixel_values"]
    output = model(**{key: batch[key] for key in keys})
    output.loss.backward()
    logits = output.logits.detach().reshape(-1, output.logits.shape[-1])[batch["label_rows"]].clone()
    grads = {f"grad.{own_name(n)}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    save_file({"logits": logits, **grads}, out / "reference.safetensors")
    asked = json.loads((FIXTURE / "reference.json").read_text())["generation"]
    prompt = torch.tensor([asked["prompt"]])
    tokens = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, eos_token_id=None,
                            pixel_values=batch["pixel_values"][:1], max_new_tokens=8, min_new_tokens=8)
    (out / "reference.json").write_text(json.dumps(
        {"loss": output.loss.item(), "tokens": tokens[0, prompt.shape[1]:].tolist()}))


def shards(folder: Path, tensors: dict, count: int = 3) -> None:
    names = sorted(tensors)
    index = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name].contiguous() for name in names[i::count]}
        save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def main() -> None:
    root = Path(sys.argv[1])
    for dtype in ("float32", "bfloat16"):
        out = root / dtype
        out.mkdir(parents=True)
        model = LlavaForConditionalGeneration.from_pretrained(FIXTURE / "model", dtype=torch.float32, attn_implementation="eager")
        model = model.to(getattr(torch, dtype)).eval()
        own = {own_name(n): t.detach().clone() for n, t in model.state_dict().items()}
        config = json.loads((FIXTURE / "model" / "config.json").read_text())

        model.save_pretrained(out / "saved")
        # Read anew: a model that was cast has cast its rotary frequencies too.
        wide = LlavaForConditionalGeneration.from_pretrained(out / "saved", dtype=torch.float32, attn_implementation="eager")
        reference(wide.eval(), out)
        model.save_pretrained(out / "saved_shards", max_shard_size="60KB")
        for name in ("saved_bin", "new_shards", "original", "original_bare"):
            (out / name).mkdir()
        torch.save(own, out / "saved_bin" / "pytorch_model.bin")
        shards(out / "new_shards", {new_name(n): t for n, t in own.items()})
        for name in ("saved_bin", "new_shards"):
            (out / name / "config.json").write_text(json.dumps(config))
        tower = CLIPVisionModel(model.config.vision_config)
        tower.load_state_dict(model.model.vision_tower.state_dict())
        tower.to(model.dtype).save_pretrained(out / "vision")
        named = {original_name(n): t for n, t in own.items()}
        torch.save(named, out / "original" / "pytorch_model.bin")
        shards(out / "original_bare", {n: t for n, t in named.items() if "vision_tower" not in n}, 2)
        original = {**config["text_config"], "model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 32,
                    "mm_vision_tower": str(out / "vision"), "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
        for name in ("original", "original_bare"):
            (out / name / "config.json").write_text(json.dumps(original))

        llm = LlamaForCausalLM(model.config.text_config)
        llm.model.load_state_dict(model.model.language_model.state_dict())
        llm.lm_head.load_state_dict(model.lm_head.state_dict())
        llm.to(model.dtype).save_pretrained(out / "llm_shards", max_shard_size="30KB")
        clip = CLIPModel(CLIPConfig(vision_config=model.config.vision_config.to_dict(),
                                    text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                                                 "num_attention_heads": 2, "vocab_size": 20}))
        clip.vision_model.load_state_dict(tower.state_dict())
        clip.to(model.dtype).save_pretrained(out / "clip_shards", max_shard_size="30KB")


main()
