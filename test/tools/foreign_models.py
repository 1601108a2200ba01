"""A tiny random LLaVA in the layouts of other programs, written without neva's code and without theirs.

    python3 test/tools/foreign_models.py      writes test/fixtures/foreign/

    hf/                 the model under llava-hf's names: what every other form must give
    original/           liuhaotian's layout: pytorch_model-*.bin with an index, no vision tower
    stage1/             what LLaVA's first stage leaves: config.json and mm_projector.bin
    vision/             the tower as pytorch_model.bin of a whole CLIP
    *.nemo, nemo_*/     NeMo archives: tar, tar.gz and folder; legacy and mcore names; TP 1, 2, 4 and PP 2

NeMo's fused layouts follow its converters (convert_llama_hf_to_nemo.py, megatron_change_num_partitions.py).
"""

import gzip
import io
import json
import shutil
import tarfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1] / "fixtures"
OUT = ROOT / "foreign"
TOKENIZER = ROOT / "data" / "spm" / "tokenizer.model"
H, F, L, NH, NG, V = 16, 24, 2, 4, 2, 620
HD = H // NH
VH, VF, VL, VNH, PATCH, IMAGE = 8, 12, 2, 2, 7, 14
generator = torch.Generator().manual_seed(20260301)


def rand(*shape):
    return (torch.randn(*shape, generator=generator) * 0.5).bfloat16()


def language_model():
    w = OrderedDict()
    w["model.embed_tokens.weight"] = rand(V, H)
    for i in range(L):
        p = f"model.layers.{i}."
        w[p + "self_attn.q_proj.weight"] = rand(NH * HD, H)
        w[p + "self_attn.k_proj.weight"] = rand(NG * HD, H)
        w[p + "self_attn.v_proj.weight"] = rand(NG * HD, H)
        w[p + "self_attn.o_proj.weight"] = rand(H, NH * HD)
        w[p + "mlp.gate_proj.weight"] = rand(F, H)
        w[p + "mlp.up_proj.weight"] = rand(F, H)
        w[p + "mlp.down_proj.weight"] = rand(H, F)
        w[p + "input_layernorm.weight"] = rand(H)
        w[p + "post_attention_layernorm.weight"] = rand(H)
    w["model.norm.weight"] = rand(H)
    w["lm_head.weight"] = rand(V, H)
    return w


def tower():
    w = OrderedDict()
    p = "vision_model."
    w[p + "embeddings.class_embedding"] = rand(VH)
    w[p + "embeddings.patch_embedding.weight"] = rand(VH, 3, PATCH, PATCH)
    w[p + "embeddings.position_embedding.weight"] = rand((IMAGE // PATCH) ** 2 + 1, VH)
    for name in ("pre_layrnorm", "post_layernorm"):
        w[p + name + ".weight"], w[p + name + ".bias"] = rand(VH), rand(VH)
    for i in range(VL):
        q = f"{p}encoder.layers.{i}."
        for name, out, inner in (
            ("self_attn.q_proj", VH, VH), ("self_attn.k_proj", VH, VH), ("self_attn.v_proj", VH, VH),
            ("self_attn.out_proj", VH, VH), ("mlp.fc1", VF, VH), ("mlp.fc2", VH, VF),
        ):
            w[q + name + ".weight"], w[q + name + ".bias"] = rand(out, inner), rand(out)
        for name in ("layer_norm1", "layer_norm2"):
            w[q + name + ".weight"], w[q + name + ".bias"] = rand(VH), rand(VH)
    return w


def projector():
    return OrderedDict([("0.weight", rand(H, VH)), ("0.bias", rand(H)), ("2.weight", rand(H, H)), ("2.bias", rand(H))])


LLAMA = dict(
    model_type="llama", hidden_act="silu", num_hidden_layers=L, hidden_size=H, intermediate_size=F,
    num_attention_heads=NH, num_key_value_heads=NG, vocab_size=V, rms_norm_eps=1e-5, rope_theta=10000.0,
    max_position_embeddings=64, tie_word_embeddings=False,
)
CLIP = dict(
    model_type="clip_vision_model", hidden_act="quick_gelu", image_size=IMAGE, patch_size=PATCH, hidden_size=VH,
    num_hidden_layers=VL, num_attention_heads=VNH, intermediate_size=VF, layer_norm_eps=1e-5,
)


def folder(name, config):
    path = OUT / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return path


def hugging_face(llm, vision, proj):
    own = {f"language_model.{k}": v for k, v in llm.items()}
    own |= {f"vision_tower.{k}": v for k, v in vision.items()}
    own |= {f"multi_modal_projector.linear_{1 + int(k[0]) // 2}{k[1:]}": v for k, v in proj.items()}
    config = dict(model_type="llava", text_config=LLAMA, vision_config=CLIP, projector_hidden_act="gelu",
                  vision_feature_layer=-2, vision_feature_select_strategy="default", tie_word_embeddings=False)
    path = folder("hf", config)
    save_file(own, path / "model.safetensors")
    shutil.copy(TOKENIZER, path)

    original = dict(LLAMA, model_type="llava_llama", mm_vision_tower="openai/clip-tiny", mm_hidden_size=VH,
                    mm_projector_type="mlp2x_gelu", mm_vision_select_layer=-2, mm_vision_select_feature="patch")
    path = folder("original", original)
    shutil.copy(TOKENIZER, path)
    named = dict(llm) | {f"model.mm_projector.{k}": v for k, v in proj.items()}
    shards = {f"pytorch_model-0000{n}-of-00002.bin": {} for n in (1, 2)}
    for i, (name, value) in enumerate(named.items()):
        list(shards.values())[i * 2 // len(named)][name] = value
    for file, content in shards.items():
        torch.save(content, path / file)
    index = dict(metadata={}, weight_map={name: file for file, content in shards.items() for name in content})
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    path = folder("stage1", original)
    torch.save({f"model.mm_projector.{k}": v for k, v in proj.items()}, path / "mm_projector.bin")
    path = folder("vision", CLIP)
    extra = {"vision_model.embeddings.position_ids": torch.arange(5)[None], "logit_scale": rand(1)[0],
             "text_model.final_layer_norm.bias": rand(4)}
    torch.save(dict(vision) | extra, path / "pytorch_model.bin")


# --- NeMo -------------------------------------------------------------------------------------------------------------

LEGACY = dict(
    embed="language_model.embedding.word_embeddings.weight", layers="language_model.encoder.layers.",
    qkv="self_attention.query_key_value.weight", out="self_attention.dense.weight",
    up="mlp.dense_h_to_4h.weight", down="mlp.dense_4h_to_h.weight", norm1="input_layernorm.weight",
    norm2="post_attention_layernorm.weight", norm="language_model.encoder.final_layernorm.weight",
    head="language_model.output_layer.weight", inv_freq="language_model.rotary_pos_emb.inv_freq",
    adapter="language_model.embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector.",
)
MCORE = dict(
    embed="embedding.word_embeddings.weight", layers="decoder.layers.", qkv="self_attention.linear_qkv.weight",
    out="self_attention.linear_proj.weight", up="mlp.linear_fc1.weight", down="mlp.linear_fc2.weight",
    norm1="self_attention.linear_qkv.layer_norm_weight", norm2="mlp.linear_fc1.layer_norm_weight",
    norm="decoder.final_layernorm.weight", head="output_layer.weight", inv_freq="rotary_pos_emb.inv_freq",
    adapter="embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector.",
)


def padded(weight, tp):
    rows = -(-V // (4 * tp)) * 4 * tp
    return torch.cat([weight, torch.zeros(rows - V, H, dtype=weight.dtype)])


def fused_qkv(q, k, v):
    per = NH // NG
    q, k, v = q.view(NG, per * HD, H), k.view(NG, HD, H), v.view(NG, HD, H)
    return torch.cat([torch.cat([q[g], k[g], v[g]]) for g in range(NG)])


def nemo_rank(llm, names, tp, rank, pp=1, stage=0, proj=None, prefix="model."):
    def rows(w):
        return w.chunk(tp)[rank].clone()

    def columns(w):
        return w.chunk(tp, dim=1)[rank].clone()

    out = OrderedDict()
    if stage == 0:
        out[names["embed"]] = rows(padded(llm["model.embed_tokens.weight"], tp))
        for k, v in (proj or {}).items():
            out[names["adapter"] + k] = v
    out[names["inv_freq"]] = torch.ones(HD // 2)
    per = L // pp
    for i in range(per):
        p = f"model.layers.{stage * per + i}."
        q = names["layers"] + f"{i}."
        attn = [llm[f"{p}self_attn.{x}_proj.weight"] for x in "qkv"]
        out[q + names["norm1"]] = llm[p + "input_layernorm.weight"]
        out[q + names["qkv"]] = rows(fused_qkv(*attn))
        out[q + names["out"]] = columns(llm[p + "self_attn.o_proj.weight"])
        out[q + names["norm2"]] = llm[p + "post_attention_layernorm.weight"]
        gate, up = llm[p + "mlp.gate_proj.weight"], llm[p + "mlp.up_proj.weight"]
        out[q + names["up"]] = torch.cat([rows(gate), rows(up)])
        out[q + names["down"]] = columns(llm[p + "mlp.down_proj.weight"])
        if names is MCORE:
            out[q + "self_attention.linear_qkv._extra_state"] = io.BytesIO(b"fp8")
            out[q + "mlp.linear_fc1._extra_state"] = None
    if stage == pp - 1:
        out[names["norm"]] = llm["model.norm.weight"]
        out[names["head"]] = rows(padded(llm["lm_head.weight"], tp))
    return OrderedDict((prefix + k, v) for k, v in out.items())


def clip_rank(vision, tp, rank):
    p, out = "vision_model.", OrderedDict()
    base = "model.vision_encoder.backbone."
    out[base + "cls_token"] = vision[p + "embeddings.class_embedding"].view(1, 1, VH)
    out[base + "conv1.weight"] = vision[p + "embeddings.patch_embedding.weight"]
    out[base + "position_embeddings"] = vision[p + "embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        out[base + "preprocess_layernorm." + kind] = vision[f"{p}pre_layrnorm.{kind}"]
        out[base + "transformer.final_layernorm." + kind] = vision[f"{p}post_layernorm.{kind}"]
        for i in range(VL):
            a, b = f"{p}encoder.layers.{i}.", f"{base}transformer.layers.{i}."
            out[f"{b}input_layernorm.{kind}"] = vision[f"{a}layer_norm1.{kind}"]
            out[f"{b}post_attention_layernorm.{kind}"] = vision[f"{a}layer_norm2.{kind}"]
            whole = torch.cat([vision[f"{a}self_attn.{x}_proj.{kind}"] for x in "qkv"])
            chunks = whole.chunk(3 * tp)
            out[f"{b}self_attention.query_key_value.{kind}"] = torch.cat([chunks[rank + j * tp] for j in range(3)])
            dense, down = vision[f"{a}self_attn.out_proj.{kind}"], vision[f"{a}mlp.fc2.{kind}"]
            if kind == "weight":
                dense, down = dense.chunk(tp, dim=1)[rank].clone(), down.chunk(tp, dim=1)[rank].clone()
            out[f"{b}self_attention.dense.{kind}"], out[f"{b}mlp.dense_4h_to_h.{kind}"] = dense, down
            out[f"{b}mlp.dense_h_to_4h.{kind}"] = vision[f"{a}mlp.fc1.{kind}"].chunk(tp)[rank].clone()
    out["model.vision_encoder.head.weight"] = rand(4, VH)
    out["model.text_encoder.language_model.embedding.word_embeddings.weight"] = rand(5, 4)
    out["model.logit_scale"] = rand(1)[0]
    return out


def model_config(tp, pp, mcore, more=""):
    return f"""mcore_gpt: {mcore}
micro_batch_size: 4
tensor_model_parallel_size: {tp}
pipeline_model_parallel_size: {pp}
encoder_seq_length: 64
max_position_embeddings: ${{.encoder_seq_length}}
position_embedding_type: rope
num_layers: {L}
hidden_size: {H}
ffn_hidden_size: {F}
num_attention_heads: {NH}
num_query_groups: {NG}
kv_channels: null
normalization: rmsnorm
layernorm_epsilon: 1.0e-05
make_vocab_size_divisible_by: 4
bias: false
activation: fast-swiglu
transformer_block_type: pre_ln
rotary_percentage: 1.0
share_embeddings_and_output_weights: false
tokenizer:
  library: sentencepiece
  type: null
  model: nemo:0123456789abcdef0123456789abcdef_tokenizer.model
target: nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel
{more}nemo_version: 2.0.0rc0
"""


NEVA = """mm_cfg:
  llm:
    from_pretrained: null
    freeze: false
    model_type: llama_2
  vision_encoder:
    from_pretrained: openai/clip-tiny
    from_hf: true
    hidden_size: 8
    vision_select_layer: -2
    class_token_length: 1
    freeze: true
  mm_mlp_adapter_type: mlp2x_gelu
"""
CLIP_CONFIG = f"""precision: bf16
output_dim: 4
vision:
  img_h: {IMAGE}
  img_w: {IMAGE}
  patch_dim: {PATCH}
  class_token_length: 1
  num_layers: {VL}
  hidden_size: {VH}
  ffn_hidden_size: {VF}
  num_attention_heads: {VNH}
  layernorm_epsilon: 1.0e-05
  activation: quick-gelu
  megatron_legacy: true
text:
  num_layers: 1
target: nemo.collections.multimodal.models.vision_language_foundation.clip.megatron_clip_models.MegatronCLIPModel
"""


def archive(name, config, ranks, tokenizer=True, form="tar"):
    """ranks: path inside → state dict."""
    files = {"model_config.yaml": config.encode()}
    if tokenizer:
        files["0123456789abcdef0123456789abcdef_tokenizer.model"] = TOKENIZER.read_bytes()
    for path, state in ranks.items():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files[path] = buffer.getvalue()
    if form == "folder":
        for path, content in files.items():
            (OUT / name / path).parent.mkdir(parents=True, exist_ok=True)
            (OUT / name / path).write_bytes(content)
        return
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo("./" + path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    raw = stream.getvalue()
    (OUT / name).write_bytes(gzip.compress(raw, mtime=0) if form == "gz" else raw)


def main():
    if OUT.exists():
        shutil.rmtree(OUT)
    llm, vision, proj = language_model(), tower(), projector()
    hugging_face(llm, vision, proj)
    single = "model_weights.ckpt"

    def tp(n, names, **more):
        return {f"mp_rank_{r:02d}/{single}": nemo_rank(llm, names, n, r, **more) for r in range(n)}

    archive("llm_legacy.nemo", model_config(1, 1, False), {single: nemo_rank(llm, LEGACY, 1, 0)})
    archive("llm_mcore_tp2.nemo", model_config(2, 1, True), tp(2, MCORE))
    archive("llm_mcore_gz.nemo", model_config(1, 1, True), {single: nemo_rank(llm, MCORE, 1, 0)}, form="gz")
    grid = {f"tp_rank_{r:02d}_pp_rank_{s:03d}/{single}": nemo_rank(llm, LEGACY, 2, r, 2, s)
            for r in range(2) for s in range(2)}
    archive("nemo_tp2_pp2", model_config(2, 2, False), grid, form="folder")
    archive("neva_legacy_tp2.nemo", model_config(2, 1, False, NEVA), tp(2, LEGACY, proj=proj))
    adapter = OrderedDict(("model.module." + MCORE["adapter"] + k, v) for k, v in proj.items())
    archive("neva_projector.nemo", model_config(1, 1, True, NEVA), {single: adapter})
    archive("clip.nemo", CLIP_CONFIG, {single: clip_rank(vision, 1, 0)}, tokenizer=False)
    ranks = {f"mp_rank_{r:02d}/{single}": clip_rank(vision, 2, r) for r in range(2)}
    archive("clip_tp2.nemo", CLIP_CONFIG, ranks, tokenizer=False)
    (OUT / "versions.json").write_text(json.dumps({"torch": torch.__version__}) + "\n")


if __name__ == "__main__":
    main()
