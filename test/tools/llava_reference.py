"""A tiny random LLaVA in Hugging Face transformers: its files, logits, loss, gradients and optimizer steps.

    python3 test/tools/llava_reference.py      writes test/fixtures/llava/

    model/  llm/  vision/     folders made by save_pretrained: the whole, its language model, its tower
    reference.safetensors     the batch, logits at labelled positions, loss, gradients by neva's parameter names
    reference.json            shapes, versions, 20 AdamW steps of both stages, greedy tokens
"""

import json
import platform
import re
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers import LlavaConfig, LlavaForConditionalGeneration

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "llava"
PAD, BOS, EOS, IMAGE = 0, 1, 2, 95
PATCHES = 16
IGNORE = -100
STEPS = 20

torch.manual_seed(20260102)
torch.set_num_threads(1)


def own_name(name: str) -> str:
    """neva's name (llava-hf's layout up to transformers 4.51) of a parameter of the model in memory."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return "language_model." + name
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


def decays(name: str) -> bool:
    return not (name.endswith(".bias") or "norm" in name)


def build() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7
    )
    text = LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        vocab_size=96, max_position_embeddings=128, rms_norm_eps=1e-5, pad_token_id=PAD, bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=PATCHES,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager").float()
    # Larger than the usual 0.02, so that every gradient is far from rounding noise.
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.normal_(1.0, 0.2)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.1)
            elif "embed" in name and "patch" not in name:
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 0.15)
    return model.eval()


def make_batch() -> dict[str, torch.Tensor]:
    """Three right-padded records: an image after BOS, two images with text between, text alone."""

    def text(n: int) -> list[int]:
        return torch.randint(3, IMAGE, (n,)).tolist()

    image = [IMAGE] * PATCHES
    # (tokens, is in the loss) runs
    records = [
        [([BOS], 0), (image, 0), (text(4), 0), (text(6) + [EOS], 1)],
        [([BOS], 0), (text(3), 0), (image, 0), (text(2), 0), (image, 0), (text(2), 0), (text(3) + [EOS], 1)],
        [([BOS], 0), (text(5), 0), (text(4) + [EOS], 1), (text(3), 0), (text(2) + [EOS], 1)],
    ]
    length = max(sum(len(run) for run, _ in record) for record in records)
    ids = torch.full((3, length), PAD)
    labels = torch.full((3, length), IGNORE)
    mask = torch.zeros((3, length), dtype=torch.int64)
    for b, record in enumerate(records):
        tokens = [t for run, _ in record for t in run]
        targets = [t if wanted else IGNORE for run, wanted in record for t in run]
        ids[b, : len(tokens)] = torch.tensor(tokens)
        labels[b, : len(tokens)] = torch.tensor(targets)
        mask[b, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": torch.randn(3, 3, 28, 28)}


def train(state: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], parts: tuple[str, ...]) -> dict:
    """20 AdamW steps on one batch with only the named parts trained."""
    model = build()
    model.load_state_dict(state)
    trained = []
    for name, p in model.named_parameters():
        p.requires_grad_(own_name(name).startswith(parts))
        if p.requires_grad:
            trained.append((own_name(name), p))
    groups = [
        {"params": [p for n, p in trained if decays(n)], "weight_decay": 0.1},
        {"params": [p for n, p in trained if not decays(n)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for _ in range(STEPS):
        loss = model(**batch).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"trained": list(parts), "losses": losses, "grad_norms": norms}


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    model = build()
    batch = make_batch()
    state = {k: v.clone() for k, v in model.state_dict().items()}

    model.save_pretrained(OUT / "model")
    # The tied or shared storages of the whole must not leak into the parts: load clones.
    vision = CLIPVisionModel(model.config.vision_config)
    vision.load_state_dict(model.model.vision_tower.state_dict())
    vision.save_pretrained(OUT / "vision")
    llm = LlamaForCausalLM(model.config.text_config)
    llm.model.load_state_dict(model.model.language_model.state_dict())
    llm.lm_head.load_state_dict(model.lm_head.state_dict())
    llm.save_pretrained(OUT / "llm")

    output = model(**batch)
    output.loss.backward()
    ids, labels = batch["input_ids"], batch["labels"]
    flat = torch.nn.functional.pad(labels, (0, 1), value=IGNORE)[:, 1:].reshape(-1)
    rows = (flat != IGNORE).nonzero().squeeze(1)
    tensors = {**batch}
    tensors["lengths"] = batch["attention_mask"].sum(1)
    tensors["label_rows"] = rows
    tensors["label_targets"] = flat[rows]
    tensors["image_rows"] = (ids.reshape(-1) == IMAGE).nonzero().squeeze(1)
    tensors["logits"] = output.logits.detach().reshape(-1, output.logits.shape[-1])[rows].clone()
    features = model.get_image_features(batch["pixel_values"], vision_feature_layer=-2,
                                        vision_feature_select_strategy="default").pooler_output
    tensors["image_features"] = torch.stack(list(features)).detach()

    # The same in float64 (norms and softmax stay float32 inside transformers), to say how exact float32 is. A key
    # bias shifts every score of a row alike, which softmax ignores: its gradient is zero but for rounding.
    exact = build()
    exact.load_state_dict(state)
    exact.double()
    exact_loss = exact(**{k: v.double() if v.is_floating_point() else v for k, v in batch.items()}).loss
    exact_loss.backward()
    unused, zero, worst = [], [], 0.0
    for (name, p), (_, e) in zip(model.named_parameters(), exact.named_parameters()):
        name = own_name(name)
        if p.grad is None:
            unused.append(name)
        elif name.endswith("k_proj.bias"):
            assert max(p.grad.abs().max(), e.grad.abs().max()) < 1e-7
            zero.append(name)
        else:
            tensors[f"grad.{name}"] = p.grad.clone()
            worst = max(worst, ((p.grad - e.grad).abs().max() / e.grad.abs().max()).item())

    prompt = torch.tensor([[BOS] + [IMAGE] * PATCHES + torch.randint(3, IMAGE, (5,)).tolist()])
    pixels = batch["pixel_values"][:1]
    tokens, margins = [], []
    sequence = prompt
    with torch.no_grad():
        for _ in range(8):  # no cache: the plainest possible greedy decoding
            logits = model(input_ids=sequence, pixel_values=pixels).logits[0, -1]
            best = logits.topk(2)
            margins.append((best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
            sequence = torch.cat([sequence, best.indices[:1][None]], 1)
    cached = model.generate(input_ids=prompt, pixel_values=pixels, attention_mask=torch.ones_like(prompt),
                            do_sample=False, max_new_tokens=8, min_new_tokens=8, eos_token_id=None)
    assert cached[0, prompt.shape[1]:].tolist() == tokens

    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / "reference.safetensors", {"format": "pt"})
    document = {
        "made_by": "test/tools/llava_reference.py",
        "versions": {
            "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()
        },
        "image_token": IMAGE,
        "loss": output.loss.item(),
        "label_tokens": len(rows),
        "exact_loss": exact_loss.item(),
        "float32_gradient_error": worst,
        "unused_parameters": unused,
        "zero_gradients": zero,
        "adamw": {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip_grad_norm": 1.0},
        "pretrain": train(state, batch, ("multi_modal_projector.",)),
        "finetune": train(state, batch, ("multi_modal_projector.", "language_model.")),
        "generation": {"prompt": prompt[0].tolist(), "image": 0, "tokens": tokens, "margins": margins},
    }
    (OUT / "reference.json").write_text(json.dumps(document, indent=1) + "\n")


main()
