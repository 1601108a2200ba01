"""Reference values and gradients for every model operation of src/engine/engine.ts, computed by PyTorch.

    python3 test/tools/op_reference.py        writes test/fixtures/engine/ops.safetensors and ops.json

Everything is computed in float64 from the inputs as stored (float32 or bfloat16) and rounded once to float32, so
that a test may compare with the tolerance of the engine's own arithmetic. A case is

    {op, name, inputs: [tensor], options, output, gradOutput, grads: [tensor | null]}

with tensor names that key the safetensors file; `grads` runs parallel to `inputs`.
"""

import json
import math
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "engine"
generator = torch.Generator().manual_seed(20260101)
tensors: dict[str, torch.Tensor] = {}
cases: list[dict] = []


def draw(*shape: int, low: bool = False, mean: float = 0.0) -> torch.Tensor:
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + mean
    return x.to(torch.bfloat16 if low else torch.float32)


def integers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=generator, dtype=torch.int64)


def case(op: str, variant: str, inputs: list[torch.Tensor], function, options: dict | None = None,
         constants: tuple[int, ...] = ()) -> None:
    """Records one case. `function` takes the inputs in float64; no gradient is asked for those in `constants`."""
    name = f"{op}.{variant}"
    low = any(x.dtype == torch.bfloat16 for x in inputs)
    leaves = [x.double() if x.is_floating_point() else x for x in inputs]
    for i, x in enumerate(leaves):
        x.requires_grad_(x.is_floating_point() and i not in constants)
    output = function(*leaves)
    entry = {"op": op, "name": name, "inputs": [], "options": options or {}, "output": f"{name}.output"}
    for i, x in enumerate(inputs):
        key = f"{name}.input{i}"
        tensors[key] = x.contiguous()
        entry["inputs"].append(key)
    if not output.is_floating_point():
        tensors[entry["output"]] = output.detach().contiguous()
        entry |= {"gradOutput": None, "grads": [None] * len(inputs)}
        cases.append(entry)
        return
    tensors[entry["output"]] = output.detach().float().contiguous()
    grad_output = draw(*output.shape, low=low and op != "crossEntropy")
    if op == "cast" and (options or {})["dtype"] == "bfloat16":
        grad_output = grad_output.bfloat16()
    entry["gradOutput"] = f"{name}.gradOutput"
    tensors[entry["gradOutput"]] = grad_output
    wanted = [x for x in leaves if x.requires_grad]
    grads = iter(torch.autograd.grad(output, wanted, grad_output.double()))
    entry["grads"] = []
    for i, x in enumerate(leaves):
        if not x.requires_grad:
            entry["grads"].append(None)
            continue
        tensors[f"{name}.grad{i}"] = next(grads).float().contiguous()
        entry["grads"].append(f"{name}.grad{i}")
    cases.append(entry)


def rms_norm(x, weight, eps=1e-5):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def attention(q, k, v, causal, scale=None):
    """Softmax attention written out: grouped keys, causal mask aligned to the end."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.transpose(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
    if causal:
        t, u = scores.shape[-2:]
        seen = torch.arange(u)[None, :] <= torch.arange(t)[:, None] + (u - t)
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def packed(q, k, v, lengths):
    """Causal attention within each of the records that lie one after the other."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    t = len(owner)
    seen = (owner[:, None] == owner[None, :]) & (torch.arange(t)[None, :] <= torch.arange(t)[:, None])
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def rope(x, cos, sin):
    """Hugging Face's half rotation of the first R of D with the angle table given once, [T, R/2]."""
    cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    x, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    a, b = x.chunk(2, -1)
    return torch.cat([x * cos + torch.cat([-b, a], -1) * sin, rest], -1)


def patch_embed(pixels, weight):
    return F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)


def scatter_rows(base, indices, rows):
    return base.index_put((indices,), rows)


for low in (False, True):
    kind = "bfloat16" if low else "float32"
    case("linear", f"bias.{kind}", [draw(2, 5, 7, low=low), draw(9, 7, low=low), draw(9, low=low)], F.linear)
    case("linear", f"plain.{kind}", [draw(3, 7, low=low), draw(5, 7, low=low)], F.linear)
    case("rmsNorm", kind, [draw(2, 3, 11, low=low), draw(11, low=low, mean=1)], rms_norm, {"eps": 1e-5})
    case("attention", f"causal.{kind}", [draw(2, 3, 7, 8, low=low) for _ in range(3)],
         lambda q, k, v: attention(q, k, v, True), {"causal": True})
    case("attention", f"full.{kind}", [draw(2, 3, 5, 8, low=low) for _ in range(3)],
         lambda q, k, v: attention(q, k, v, False), {"causal": False})
    case("attention", f"grouped.{kind}",
         [draw(1, 6, 5, 8, low=low), draw(1, 2, 5, 8, low=low), draw(1, 2, 5, 8, low=low)],
         lambda q, k, v: attention(q, k, v, True), {"causal": True})

case("attention", "causal.longer-keys", [draw(2, 4, 3, 8), draw(2, 2, 7, 8), draw(2, 2, 7, 8)],
     lambda q, k, v: attention(q, k, v, True), {"causal": True})
case("attention", "causal.one-query", [draw(1, 2, 1, 8), draw(1, 2, 9, 8), draw(1, 2, 9, 8)],
     lambda q, k, v: attention(q, k, v, True), {"causal": True})
case("attention", "full.longer-keys", [draw(1, 2, 3, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4)],
     lambda q, k, v: attention(q, k, v, False), {"causal": False})
case("attention", "scale", [draw(1, 2, 5, 4) for _ in range(3)],
     lambda q, k, v: attention(q, k, v, True, 0.3), {"causal": True, "scale": 0.3})

case("embedding", "repeated", [draw(11, 5), integers(11, 2, 7)], lambda w, i: F.embedding(i, w))
case("embedding", "int32", [draw(6, 3), integers(6, 5).int()], lambda w, i: F.embedding(i, w))
case("layerNorm", "float32", [draw(2, 3, 11, mean=0.5), draw(11, mean=1), draw(11)],
     lambda x, w, b: F.layer_norm(x, (11,), w, b, 1e-5), {"eps": 1e-5})
angles = torch.arange(7, dtype=torch.float64)[:, None] / 100 ** (torch.arange(4, dtype=torch.float64) / 4)
case("rope", "float32", [draw(2, 3, 7, 8), angles.cos().float(), angles.sin().float()], rope, constants=(1, 2))
case("patchEmbed", "float32", [draw(2, 3, 9, 9), draw(5, 3, 3, 3)], patch_embed)
case("silu", "float32", [draw(3, 7) * 3], F.silu)
case("siluMul", "float32", [draw(3, 7) * 3, draw(3, 7)], lambda g, u: F.silu(g) * u)
case("gelu", "float32", [draw(3, 7) * 3], F.gelu)
case("quickGelu", "float32", [draw(3, 7) * 3], lambda x: x * torch.sigmoid(1.702 * x))
case("crossEntropy", "float32", [draw(5, 13) * 3, integers(13, 5)],
     lambda x, t: F.cross_entropy(x, t, reduction="sum"))
case("crossEntropy", "int32", [draw(3, 7), integers(7, 3).int()],
     lambda x, t: F.cross_entropy(x, t.long(), reduction="sum"))
case("crossEntropy", "large", [draw(3, 7) * 300, integers(7, 3)],
     lambda x, t: F.cross_entropy(x, t, reduction="sum"))

case("add", "same", [draw(3, 5), draw(3, 5)], torch.add)
case("add", "broadcast", [draw(2, 3, 5), draw(3, 1)], torch.add)
case("add", "row", [draw(2, 3, 5), draw(5)], torch.add)
case("mul", "same", [draw(3, 5), draw(3, 5)], torch.mul)
case("mul", "broadcast", [draw(2, 1, 5), draw(3, 1)], torch.mul)
case("scale", "float32", [draw(3, 5)], lambda x: x * -1.75, {"factor": -1.75})
case("cast", "float32-bfloat16", [draw(3, 5)], lambda x: x + (x.bfloat16().double() - x).detach(),
     {"dtype": "bfloat16"})
case("cast", "bfloat16-float32", [draw(3, 5, low=True)], lambda x: x * 1, {"dtype": "float32"})
case("reshape", "given", [draw(2, 3, 4)], lambda x: x.reshape(6, 4), {"shape": [6, 4]})
case("reshape", "inferred", [draw(2, 3, 4)], lambda x: x.reshape(2, -1), {"shape": [2, -1]})
case("transpose", "inner", [draw(2, 3, 4, 5)], lambda x: x.transpose(1, 2), {"dimA": 1, "dimB": 2})
case("transpose", "negative", [draw(2, 3, 4)], lambda x: x.transpose(-1, -2), {"dimA": -1, "dimB": -2})
case("expand", "leading", [draw(1, 1, 5)], lambda x: x.expand(3, 2, 5), {"shape": [3, 2, 5]})
case("slice", "middle", [draw(2, 7, 3)], lambda x: x[:, 2:5], {"dim": 1, "start": 2, "end": 5})
case("slice", "last", [draw(2, 3, 6)], lambda x: x[..., 4:6], {"dim": -1, "start": 4, "end": 6})
case("concat", "three", [draw(2, 1, 4), draw(2, 3, 4), draw(2, 2, 4)], lambda *xs: torch.cat(xs, 1), {"dim": 1})
case("gatherRows", "repeated", [draw(6, 5), torch.tensor([4, 0, 4, 2])], lambda x, i: x[i])
case("gatherRows", "int32", [draw(6, 2, 3), torch.tensor([5, 1], dtype=torch.int32)], lambda x, i: x[i.long()])
case("scatterRows", "float32", [draw(7, 4), torch.tensor([5, 0, 3]), draw(3, 4)], scatter_rows)
case("scatterRows", "int32", [draw(5, 2), torch.tensor([4, 2], dtype=torch.int32), draw(2, 2)],
     lambda b, i, r: scatter_rows(b, i.long(), r))
case("argmax", "rows", [draw(4, 9)], lambda x: x.argmax(-1))

# Later additions stand last, so that the values of those above stay.
case("relu", "float32", [draw(3, 7)], F.relu)
case("geluTanh", "float32", [draw(3, 7) * 3], lambda x: F.gelu(x, approximate="tanh"))
for low in (False, True):
    case("rope", f"partial.{'bfloat16' if low else 'float32'}",
         [draw(2, 3, 7, 14, low=low), angles.cos().float(), angles.sin().float()], rope, constants=(1, 2))

for low in (False, True):
    kind = "bfloat16" if low else "float32"
    for form, options in (("flash", {}), ("plain", {"flash": False}), ("again", {"flash": False, "recompute": True})):
        case("attention", f"packed.{form}.{kind}",
             [draw(1, 4, 9, 8, low=low), draw(1, 2, 9, 8, low=low), draw(1, 2, 9, 8, low=low)],
             lambda q, k, v: packed(q, k, v, [4, 1, 2, 2]), {"causal": True, "lengths": [4, 1, 2, 2], **options})
        if options:
            case("attention", f"causal.{form}.{kind}", [draw(2, 3, 7, 8, low=low) for _ in range(3)],
                 lambda q, k, v: attention(q, k, v, True), {"causal": True, **options})
            case("attention", f"full.{form}.{kind}", [draw(2, 2, 3, 4, low=low), draw(2, 2, 5, 4, low=low), draw(2, 2, 5, 4, low=low)],
                 lambda q, k, v: attention(q, k, v, False, 0.3), {"causal": False, "scale": 0.3, **options})
            case("attention", f"longer-keys.{form}.{kind}", [draw(1, 2, 3, 4, low=low), draw(1, 2, 5, 4, low=low), draw(1, 2, 5, 4, low=low)],
                 lambda q, k, v: attention(q, k, v, True), {"causal": True, **options})

OUT.mkdir(parents=True, exist_ok=True)
save_file(tensors, OUT / "ops.safetensors", {"format": "pt"})
document = {
    "made_by": "test/tools/op_reference.py",
    "versions": {"torch": torch.__version__, "python": platform.python_version()},
    "cases": cases,
}
(OUT / "ops.json").write_text(json.dumps(document, indent=1) + "\n")
print(len(cases), "cases,", (OUT / "ops.safetensors").stat().st_size, "bytes")
