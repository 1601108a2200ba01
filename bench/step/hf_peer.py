"""The Hugging Face + PyTorch training loop that bench/step measures neva against, driven one step at a time.

    python3 bench/step/hf_peer.py '{"llm": {"hidden": 512, "layers": 8, "heads": 8, "kv": 8, "ffn": 1376, "vocab": 32000},
        "clip": {"hidden": 256, "layers": 6, "heads": 4, "ffn": 1024, "image": 224, "patch": 14},
        "batch": 2, "textTokens": 128, "labelFraction": 0.5, "dtype": "float32", "stage": "finetune", "warmup": 2,
        "threads": 2}'

It makes the model with random weights, does the warm-up steps, prints one ready line, and then answers each line on
stdin with one JSON line: `step` does one optimizer step and tells {"seconds", "loss", "grad_norm"}; `quit` (or end of
input) tells {"peak_rss_bytes"} and ends. A driver can thus alternate it with neva in one run on one machine. With
"steps": N it takes N steps by itself instead of reading stdin.

What makes it a fair peer: SDPA attention, fused AdamW, gradient clipping, the tower (and in pretrain the LLM) without
requires_grad so that autograd records nothing below the projector, gradients set to None, the KV cache off, data ready
before the clock starts, as many threads as neva gets. dtype `bfloat16` holds the weights themselves in bfloat16;
`bf16-autocast` keeps float32 weights and computes under autocast. "compile": true runs the model through torch.compile;
"device": "cuda" puts it on the GPU; "attention": "eager" or "flash_attention_2" takes the place of SDPA.
"""

import contextlib
import json
import logging
import os
import resource
import sys
import time

spec = json.loads(sys.argv[1])
os.environ.setdefault("OMP_NUM_THREADS", str(spec.get("threads", 2)))

import torch  # noqa: E402  (the thread count must be set first)
import transformers  # noqa: E402
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration  # noqa: E402

# Graph breaks in transformers' own checks are its business; they would bury the result.
logging.getLogger("torch._dynamo").setLevel(logging.ERROR)

BYTES_PER_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


DEVICE = spec.get("device", "cpu")


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_RSS_UNIT


def build() -> LlavaForConditionalGeneration:
    llm, clip = spec["llm"], spec["clip"]
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=llm["hidden"], num_hidden_layers=llm["layers"], num_attention_heads=llm["heads"],
            num_key_value_heads=llm.get("kv", llm["heads"]), intermediate_size=llm["ffn"], vocab_size=llm["vocab"],
            max_position_embeddings=4096, rms_norm_eps=1e-5, use_cache=False,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=clip["hidden"], num_hidden_layers=clip["layers"], num_attention_heads=clip["heads"],
            intermediate_size=clip["ffn"], image_size=clip["image"], patch_size=clip["patch"],
        ),
        image_token_index=llm["vocab"] - 1,
        image_seq_length=(clip["image"] // clip["patch"]) ** 2,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=spec.get("attention", "sdpa"))
    model = model.bfloat16() if spec["dtype"] == "bfloat16" else model.float()
    trained = ("multi_modal_projector",) if spec["stage"] == "pretrain" else (
        "multi_modal_projector", "language_model", "lm_head")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    return model.to(DEVICE).train()


def make_batch(model: LlavaForConditionalGeneration) -> dict[str, torch.Tensor]:
    """Records of BOS, one image, then text whose last `labelFraction` carries labels."""
    batch, text, vocab = spec["batch"], spec["textTokens"], spec["llm"]["vocab"]
    patches, image, side = model.config.image_seq_length, model.config.image_token_index, spec["clip"]["image"]
    words = torch.randint(3, vocab - 1, (batch, text))
    words[:, 0] = 1
    ids = torch.cat([words[:, :1], torch.full((batch, patches), image), words[:, 1:]], 1)
    labels = torch.full_like(ids, -100)
    labelled = max(1, round(text * spec.get("labelFraction", 0.5)))
    labels[:, -labelled:] = ids[:, -labelled:]
    dtype = torch.bfloat16 if spec["dtype"] == "bfloat16" else torch.float32
    made = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "pixel_values": torch.randn(batch, 3, side, side).to(dtype),
    }
    return {name: tensor.to(DEVICE) for name, tensor in made.items()}


def main() -> None:
    torch.set_num_threads(spec.get("threads", 2))
    torch.manual_seed(spec.get("seed", 1))
    rss_before = peak_rss()
    model = build()
    batch = make_batch(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=spec.get("lr", 1e-4), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    autocast = spec["dtype"] == "bf16-autocast"
    forward = torch.compile(model) if spec.get("compile") else model
    if spec.get("recompute"):
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def step() -> dict[str, float]:
        start = time.perf_counter()
        with torch.autocast(DEVICE, torch.bfloat16) if autocast else contextlib.nullcontext():
            loss = forward(**batch).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        return {"seconds": time.perf_counter() - start, "loss": value, "grad_norm": norm.item()}

    def tell(what: dict) -> None:
        print(json.dumps(what), flush=True)

    for _ in range(spec.get("warmup", 2)):
        step()
    tell({
        "ready": True,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in trained),
        "positions": batch["input_ids"].numel(),
        "label_tokens": int((batch["labels"] != -100).sum()),
    })
    if spec.get("steps"):
        for _ in range(spec["steps"]):
            tell(step())
    else:
        for line in sys.stdin:
            request = line.strip()
            if request == "quit":
                break
            if request == "step":
                tell(step())
            elif request:
                tell({"error": f"unknown request {request!r}: step or quit"})
    device_peak = {"peak_tensor_bytes": torch.cuda.max_memory_allocated()} if DEVICE == "cuda" else {}
    tell({"peak_rss_bytes": peak_rss(), "rss_before_model_bytes": rss_before, **device_peak})


main()
