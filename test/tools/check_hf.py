"""Loads models that neva wrote with transformers, and compares their logits with those of the model they came from.

    python3 test/tools/check_hf.py ORIGINAL WRITTEN…

No tensor may be missing, unexpected or of another shape; logits must be the same bit for bit. Prints one line a model.
"""

import json
import sys

import torch
import transformers
from transformers import CLIPVisionModel, LlamaForCausalLM, LlavaForConditionalGeneration

transformers.logging.set_verbosity_error()


def load(folder):
    with open(folder + "/config.json") as file:
        kind = json.load(file)["model_type"]
    made = {"llava": LlavaForConditionalGeneration, "llama": LlamaForCausalLM, "clip_vision_model": CLIPVisionModel}[kind]
    model, info = made.from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(problem), (folder, problem, info[problem])
    return model.eval()


@torch.no_grad()
def outputs(model, original):
    config = original.config
    generator = torch.Generator().manual_seed(3)
    size = config.vision_config.image_size
    pixels = torch.randn(1, 3, size, size, generator=generator)
    if isinstance(model, CLIPVisionModel):
        return model(pixels).last_hidden_state
    text = torch.randint(3, config.text_config.vocab_size - 1, (1, 9), generator=generator)
    if isinstance(model, LlamaForCausalLM):
        return model(text).logits
    # Where the tokenizer had no <image>, its id is the first after the vocabulary: what neva's note asks for.
    if model.config.image_token_index >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(model.config.image_token_index + 1)
    places = torch.full((1, model.config.image_seq_length), model.config.image_token_index)
    return model(input_ids=torch.cat([text[:, :4], places, text[:, 4:]], 1), pixel_values=pixels).logits[..., : config.text_config.vocab_size]


def main(first, others):
    original = load(first)
    for folder in others:
        model = load(folder)
        parts = {LlamaForCausalLM: "text", CLIPVisionModel: "vision"}
        kind = parts.get(type(model), "whole")
        if kind == "whole":
            expected = outputs(original, original)
        else:
            part = type(model)(getattr(original.config, kind + "_config")).eval()
            names = model.state_dict().keys()
            own = original.state_dict()

            def find(name):
                ends = [k for k in own if k.endswith("." + name) or k == name]
                ends = [k for k in ends if ("vision" in k) == (kind == "vision")] or ends
                if not ends:
                    bare = name.split(".", 1)[1]
                    ends = [k for k in own if k.endswith("." + bare) and ("vision" in k) == (kind == "vision")]
                assert len(ends) == 1, (name, ends)
                return own[ends[0]]

            part.load_state_dict({name: find(name) for name in names})
            expected = outputs(part, original)
        found = outputs(model, original)
        assert torch.equal(found, expected), (folder, (found - expected).abs().max())
        print(f"{folder}: {kind}, the same {tuple(found.shape)} bit for bit")


main(sys.argv[1], sys.argv[2:])
