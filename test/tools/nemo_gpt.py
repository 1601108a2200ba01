"""The models of test/fixtures/gpt as NeMo's archives, fused and split here without neva's code.

    python3 test/tools/nemo_gpt.py      writes test/fixtures/gpt/*.nemo (after gpt_reference.py)

    nemotron_bias.nemo   Megatron-core names, tp 2: LayerNorm1p, squared ReLU, half of each head turned, biases
    gpt2.nemo            NeMo's own names, tp 1: LayerNorm, learned positions, GELU by tanh, tied embeddings
    nvgpt.nemo           NeMo's own names, tp 2: LayerNorm, fast-geglu, a quarter of each head turned, biases

Rows of qkv by query group, gate and up rank by rank (megatron_change_num_partitions.py of NeMo 2.0.0rc0).
"""

import io
import json
import tarfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

GPT = Path(__file__).resolve().parents[1] / "fixtures" / "gpt"
LEGACY = {
    "words": "language_model.embedding.word_embeddings.weight",
    "places": "language_model.embedding.position_embeddings.weight",
    "block": "language_model.encoder.layers.{}.", "norm1": "input_layernorm.", "norm2": "post_attention_layernorm.",
    "qkv": "self_attention.query_key_value.", "out": "self_attention.dense.", "up": "mlp.dense_h_to_4h.",
    "down": "mlp.dense_4h_to_h.", "last": "language_model.encoder.final_layernorm.",
    "head": "language_model.output_layer.weight",
}
MCORE = {
    "words": "embedding.word_embeddings.weight", "places": "embedding.position_embeddings.weight",
    "block": "decoder.layers.{}.", "norm1": "self_attention.linear_qkv.layer_norm_",
    "norm2": "mlp.linear_fc1.layer_norm_", "qkv": "self_attention.linear_qkv.", "out": "self_attention.linear_proj.",
    "up": "mlp.linear_fc1.", "down": "mlp.linear_fc2.", "last": "decoder.final_layernorm.", "head": "output_layer.weight",
}


def ranks(weights: dict, config: dict, names: dict, tp: int) -> list[dict]:
    groups = config.get("num_key_value_heads", config["num_attention_heads"])
    out = [{} for _ in range(tp)]

    def put(name, parts):
        for rank, part in enumerate(parts):
            out[rank]["model." + name] = part.clone()

    def same(name, value):
        put(name, [value] * tp)

    put(names["words"], weights["model.embed_tokens.weight"].chunk(tp))
    if "model.embed_positions.weight" in weights:
        same(names["places"], weights["model.embed_positions.weight"])
    for kind in ("weight", "bias"):
        same(names["last"] + kind, weights[f"model.norm.{kind}"])
    if "lm_head.weight" in weights:
        put(names["head"], weights["lm_head.weight"].chunk(tp))
    for layer in range(config["num_hidden_layers"]):
        block = names["block"].format(layer)
        for kind in ("weight", "bias"):
            w = {n: weights.get(f"model.layers.{layer}.{n}.{kind}") for n in (
                "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
            same(block + names["norm1"] + kind, w["input_layernorm"])
            same(block + names["norm2"] + kind, w["post_attention_layernorm"])
            if w["mlp.up_proj"] is None:
                continue
            split = [w[f"self_attn.{x}_proj"].chunk(groups) for x in "qkv"]
            fused = [torch.cat([split[0][g], split[1][g], split[2][g]]) for g in range(groups)]
            put(block + names["qkv"] + kind, torch.cat(fused).chunk(tp))
            up = w["mlp.up_proj"].chunk(tp)
            if w["mlp.gate_proj"] is not None:
                up = [torch.cat(pair) for pair in zip(w["mlp.gate_proj"].chunk(tp), up)]
            put(block + names["up"] + kind, up)
            for name, value in (("out", w["self_attn.o_proj"]), ("down", w["mlp.down_proj"])):
                put(block + names[name] + kind, value.chunk(tp, 1) if kind == "weight" else [value] * tp)
    return out


def archive(name: str, names: dict, tp: int, **block) -> None:
    config = json.loads((GPT / name / "config.json").read_text())
    weights = load_file(GPT / name / "model.safetensors")
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim")
    nemo = {
        "mcore_gpt": names is MCORE, "tensor_model_parallel_size": tp, "pipeline_model_parallel_size": 1,
        "encoder_seq_length": 128, "max_position_embeddings": "${.encoder_seq_length}",
        "num_layers": config["num_hidden_layers"], "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"], "num_attention_heads": heads,
        "num_query_groups": config.get("num_key_value_heads"),
        "kv_channels": None if head_dim in (None, config["hidden_size"] // heads) else head_dim,
        "layernorm_epsilon": 1e-5, "make_vocab_size_divisible_by": 8, "transformer_block_type": "pre_ln",
        "share_embeddings_and_output_weights": config["tie_word_embeddings"], "bias": True, **block,
    }
    files = [("./model_config.yaml", yaml.safe_dump(nemo).encode())]
    for rank, tensors in enumerate(ranks(weights, config, names, tp)):
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        files.append(("./" + (f"mp_rank_{rank:02}/" if tp > 1 else "") + "model_weights.ckpt", buffer.getvalue()))
    with tarfile.open(GPT / f"{name}.nemo", "w") as tar:
        for path, content in files:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


archive("nemotron_bias", MCORE, 2, normalization="layernorm1p", activation="squared-relu", rotary_percentage=0.5,
        position_embedding_type="rope")
archive("gpt2", LEGACY, 1, normalization="layernorm", activation="gelu", bias_activation_fusion=True,
        position_embedding_type="learned_absolute")
archive("nvgpt", LEGACY, 2, normalization="LayerNorm", activation="fast-geglu", rotary_percentage=0.25,
        position_embedding_type="rope")
