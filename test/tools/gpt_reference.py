"""Language models other than plain LLaMA, tiny and random: files, logits, loss, gradients, greedy tokens.

    python3 test/tools/gpt_reference.py      writes test/fixtures/gpt/ (after llava_reference.py, whose batch it takes)

    NAME/                     the model's folder: config.json and model.safetensors
    NAME.safetensors          logits at labelled positions, and gradients by neva's parameter names
    reference.json            versions; per model: loss, prompt and greedy tokens

The batch is that of test/fixtures/llava: its picture features, as transformers computed them, stand where pictures are.
nemotron, nemotron_bias and llama3 are transformers' own classes; gpt2 is transformers' GPT2 with its weights renamed; nvgpt
(LayerNorm, GEGLU, a quarter of each head turned, grouped queries, biases) is the module below.
"""

import json
import platform
import re
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, NemotronConfig, NemotronForCausalLM

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
OUT = FIXTURES / "gpt"
C, FFN, LAYERS, VOCAB, POSITIONS, IMAGE = 48, 64, 2, 96, 128, 95

torch.manual_seed(20260203)
torch.set_num_threads(1)
llava = load_file(FIXTURES / "llava" / "reference.safetensors")


class Nvgpt(nn.Module):
    """NeMo's GPT block with mlp gated by GELU, written out; heads 6, query groups 2, rotary_percentage 0.25."""

    H, G, D = 6, 2, 16
    R = 4

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(VOCAB, C)
        self.model.layers = nn.ModuleList(self.block() for _ in range(LAYERS))
        self.model.norm = nn.LayerNorm(C, 1e-5)
        self.lm_head = nn.Linear(C, VOCAB, bias=False)

    def block(self):
        block, attention, mlp = nn.Module(), nn.Module(), nn.Module()
        block.input_layernorm, block.post_attention_layernorm = nn.LayerNorm(C, 1e-5), nn.LayerNorm(C, 1e-5)
        attention.q_proj, attention.o_proj = nn.Linear(C, self.H * self.D), nn.Linear(self.H * self.D, C)
        attention.k_proj, attention.v_proj = nn.Linear(C, self.G * self.D), nn.Linear(C, self.G * self.D)
        mlp.gate_proj, mlp.up_proj, mlp.down_proj = nn.Linear(C, FFN), nn.Linear(C, FFN), nn.Linear(FFN, C)
        block.self_attn, block.mlp = attention, mlp
        return block

    def turn(self, x):
        angle = torch.arange(x.shape[2])[:, None] / 10000 ** (torch.arange(0, self.R, 2) / self.R)
        cos, sin = angle.cos(), angle.sin()
        a, b, rest = x.split([self.R // 2, self.R // 2, self.D - self.R], -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def forward(self, inputs_embeds):
        x = inputs_embeds
        B, T, _ = x.shape
        for block in self.model.layers:
            h, a, m = block.input_layernorm(x), block.self_attn, block.mlp
            q = self.turn(a.q_proj(h).view(B, T, self.H, self.D).transpose(1, 2))
            k = self.turn(a.k_proj(h).view(B, T, self.G, self.D).transpose(1, 2)).repeat_interleave(self.H // self.G, 1)
            v = a.v_proj(h).view(B, T, self.G, self.D).transpose(1, 2).repeat_interleave(self.H // self.G, 1)
            scores = q @ k.transpose(-1, -2) / self.D**0.5
            scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
            x = x + a.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1))
            h = block.post_attention_layernorm(x)
            x = x + m.down_proj(F.gelu(m.gate_proj(h)) * m.up_proj(h))
        return self.lm_head(self.model.norm(x))


def randomize(model: nn.Module, minus_one: bool = False) -> nn.Module:
    """Larger than usual, so that every gradient is far from rounding noise."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if re.search(r"(norm|ln_\w)\w*\.weight$", name):
                p.normal_(0.0 if minus_one else 1.0, 0.2)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.1)
            elif re.search("embed|wte|wpe", name):
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 0.15)
    return model.float().eval()


def from_gpt2(name: str, value: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """A weight of GPT-2 under neva's names: Conv1D is transposed, the fused qkv cut into three."""
    name = name.removeprefix("transformer.")
    outer = {"wte.weight": "embed_tokens.weight", "wpe.weight": "embed_positions.weight", "ln_f.weight": "norm.weight",
             "ln_f.bias": "norm.bias"}
    if name in outer:
        return [(f"model.{outer[name]}", value)]
    layer, body, kind = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name).groups()
    if kind == "weight" and not body.startswith("ln_"):
        value = value.T
    new = {"ln_1": ["input_layernorm"], "ln_2": ["post_attention_layernorm"], "attn.c_proj": ["self_attn.o_proj"],
           "attn.c_attn": [f"self_attn.{x}_proj" for x in "qkv"], "mlp.c_fc": ["mlp.up_proj"],
           "mlp.c_proj": ["mlp.down_proj"]}[body]
    return [(f"model.layers.{layer}.{n}.{kind}", part) for n, part in zip(new, value.chunk(len(new)))]


def renamed(tensors: dict[str, torch.Tensor], gpt2: bool) -> dict[str, torch.Tensor]:
    pairs = [pair for n, v in tensors.items() for pair in (from_gpt2(n, v) if gpt2 else [(n, v)])]
    return {n: v.detach().clone().contiguous() for n, v in pairs}


def logits_of(model: nn.Module, embeds: torch.Tensor) -> torch.Tensor:
    return model(embeds) if isinstance(model, Nvgpt) else model(inputs_embeds=embeds).logits


def embed(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return (model.transformer.wte if hasattr(model, "transformer") else model.model.embed_tokens)(ids)


def batch_embeds(model: nn.Module) -> torch.Tensor:
    ids = llava["input_ids"]
    embeds = embed(model, torch.where(ids == IMAGE, 0, ids))
    features = llava["image_features"].reshape(-1, C)[: len(llava["image_rows"])]
    return embeds.reshape(-1, C).index_put((llava["image_rows"],), features).reshape(embeds.shape)


def reference(name: str, model: nn.Module, config: dict | None = None) -> dict:
    gpt2 = hasattr(model, "transformer")
    folder = OUT / name
    if config is None:
        model.save_pretrained(folder)
    else:
        folder.mkdir()
        own = dict(model.named_parameters())  # tied weights once
        save_file(renamed(own, gpt2), folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    logits = logits_of(model, batch_embeds(model)).reshape(-1, VOCAB)[llava["label_rows"]]
    loss = F.cross_entropy(logits, llava["label_targets"])
    loss.backward()
    grads = renamed({n: p.grad for n, p in model.named_parameters()}, gpt2)
    # A bias of the keys shifts every score of a row alike, which softmax ignores.
    zero = [n for n, g in grads.items() if n.endswith("k_proj.bias") and g.abs().max() < 1e-6]
    tensors = {f"grad.language_model.{n}": g for n, g in grads.items()}
    save_file({**tensors, "logits": logits.detach().clone()}, OUT / f"{name}.safetensors", {"format": "pt"})

    sequence = torch.randint(3, IMAGE, (1, 9))
    prompt, tokens, margins = sequence[0].tolist(), [], []
    with torch.no_grad():
        for _ in range(12):
            best = logits_of(model, embed(model, sequence))[0, -1].topk(2)
            margins.append((best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
            sequence = torch.cat([sequence, best.indices[:1][None]], 1)
    return {"loss": loss.item(), "prompt": prompt, "tokens": tokens, "margins": margins,
            "zero_gradients": [f"language_model.{n}" for n in zero]}


def scaled_logits(model: LlamaForCausalLM, rope: dict) -> torch.Tensor:
    """The same weights with positions stretched in another way."""
    config = LlamaConfig(**{**model.config.to_dict(), "rope_parameters": rope})
    other = LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return logits_of(other, batch_embeds(other)).reshape(-1, VOCAB)[llava["label_rows"]]


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    sizes = {"hidden_size": C, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
             "max_position_embeddings": POSITIONS}
    models = {}

    nemotron = {**sizes, "num_attention_heads": 6, "num_key_value_heads": 2, "norm_eps": 1e-5}
    for name, bias in (("nemotron", False), ("nemotron_bias", True)):
        config = NemotronConfig(**nemotron, attention_bias=bias, mlp_bias=bias)
        model = NemotronForCausalLM._from_config(config, attn_implementation="eager")
        models[name] = reference(name, randomize(model, minus_one=True))

    config = GPT2Config(n_embd=C, n_inner=FFN, n_layer=LAYERS, n_head=6, vocab_size=VOCAB, n_positions=POSITIONS,
                        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    own = {"model_type": "nvgpt", **sizes, "num_attention_heads": 6, "norm_eps": 1e-5}
    models["gpt2"] = reference("gpt2", randomize(GPT2LMHeadModel._from_config(config, attn_implementation="eager")), {
        **own, "normalization": "layernorm", "activation": "gelu-tanh", "position_embedding_type": "learned_absolute",
        "rotary_percentage": 1, "bias": True, "tie_word_embeddings": True})
    models["nvgpt"] = reference("nvgpt", randomize(Nvgpt()), {
        **own, "num_key_value_heads": 2, "head_dim": 16, "normalization": "layernorm", "activation": "geglu",
        "position_embedding_type": "rope", "rotary_percentage": 0.25, "bias": True, "tie_word_embeddings": False})

    # 32 positions at first: the eight pairs of a head lie in all three bands of llama3's rule.
    llama3 = {"rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5,
                         rope_parameters=llama3)
    model = randomize(LlamaForCausalLM._from_config(config, attn_implementation="eager"))
    models["llama3"] = reference("llama3", model)
    scalings = {
        "default": {"rope_type": "default"},
        "linear": {"rope_type": "linear", "factor": 2.5},
        "dynamic": {"rope_type": "dynamic", "factor": 2.0},
        "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "yarn_all": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 8.0,
                     "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 0.8, "truncate": False},
    }
    scaled = {name: scaled_logits(model, {**rope, "rope_theta": 1000.0}) for name, rope in scalings.items()}
    save_file({k: v.contiguous() for k, v in scaled.items()}, OUT / "scalings.safetensors", {"format": "pt"})

    for name, attention, mlp in (("llama_attention_bias", True, False), ("llama_bias", True, True)):
        config = LlamaConfig(**sizes, num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-5,
                             attention_bias=attention, mlp_bias=mlp)
        models[name] = reference(name, randomize(LlamaForCausalLM._from_config(config, attn_implementation="eager")))

    document = {
        "made_by": "test/tools/gpt_reference.py",
        "versions": {
            "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()
        },
        "models": models,
        "scalings": scalings,
    }
    (OUT / "reference.json").write_text(json.dumps(document, indent=1) + "\n")


main()
