"""Loads LLaVA folders that neva wrote into transformers, and compares their logits with a reference.

    python3 test/tools/check_gpt.py LOGITS.safetensors FOLDER…

The batch is that of test/fixtures/llava; LOGITS holds `logits` at its labelled positions. Exits with 1 at the first difference.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

batch = load_file(Path(__file__).resolve().parents[1] / "fixtures" / "llava" / "reference.safetensors")
IMAGE = 95


def main(reference: str, folders: list[str]) -> None:
    expected = load_file(reference)["logits"]
    for folder in folders:
        model, report = LlavaForConditionalGeneration.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True)
        # The tower's last norm stands behind the hidden state that LLaVA takes.
        unloaded = [key for key in report["missing_keys"] if "post_layernorm" not in key]
        assert not unloaded and not report["unexpected_keys"], (unloaded, report["unexpected_keys"])
        model.config.image_token_id = IMAGE
        with torch.no_grad():
            logits = model.float().eval()(**{k: batch[k] for k in ("input_ids", "attention_mask", "pixel_values")}).logits
        found = logits.reshape(-1, logits.shape[-1])[batch["label_rows"]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        print(f"{folder}: {type(model.model.language_model).__name__}, logits equal")


main(sys.argv[1], sys.argv[2:])
