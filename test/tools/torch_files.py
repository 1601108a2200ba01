"""Writes test/fixtures/torch: files of torch.save, and the same tensors in safetensors.

    python3 test/tools/torch_files.py

The classes of omegaconf and Transformer Engine's extra states are imitated by modules of the same names: only how they are
pickled matters.
"""

import io
import json
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent.parent / "fixtures" / "torch"


def tensors():
    g = torch.Generator().manual_seed(7)
    base = torch.randn(6, 8, generator=g)
    return OrderedDict(
        float32=base.clone(),
        bfloat16=torch.randn(3, 5, generator=g).bfloat16(),
        float16=torch.randn(4, generator=g).half(),
        float64=torch.randn(2, 2, generator=g).double(),
        int64=torch.arange(-3, 4),
        int32=torch.arange(5, dtype=torch.int32),
        uint8=torch.arange(7, dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        scalar=torch.tensor(1.5),
        empty=torch.zeros(0, 4),
        transposed=torch.randn(3, 4, generator=g).t(),
        rows=base[2:4],
        columns=base[:, 1:4],
        every_other=base[::2, ::3],
        permuted=torch.randn(2, 3, 4, generator=g).bfloat16().permute(2, 0, 1),
        parameter=torch.nn.Parameter(torch.randn(2, 3, generator=g)),
    )


def module(name, **members):
    made = types.ModuleType(name)
    for key, value in members.items():
        value.__module__ = name
        setattr(made, key, value)
    sys.modules[name] = made
    for i in range(name.count(".")):  # parents, so that pickle can import it
        sys.modules.setdefault(name.rsplit(".", i + 1)[0], types.ModuleType(name.rsplit(".", i + 1)[0]))
    return made


class DictConfig:
    def __init__(self, content):
        self.__dict__.update(_metadata=None, _parent=None, _content=content)


class AnyNode:
    def __init__(self, value):
        self.__dict__.update(_metadata=None, _parent=None, _val=value)


def config(values):
    return DictConfig({k: config(v) if isinstance(v, dict) else AnyNode(v) for k, v in values.items()})


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    state = tensors()
    torch.save(state, OUT / "state.pt")
    torch.save(dict(state), OUT / "state_protocol5.pt", pickle_protocol=5)
    save_file({k: v.detach().contiguous().clone() for k, v in state.items()}, OUT / "expected.safetensors")

    with zipfile.ZipFile(OUT / "state.pt") as stored, zipfile.ZipFile(
        OUT / "deflated.pt", "w", zipfile.ZIP_DEFLATED
    ) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))

    module("omegaconf.dictconfig", DictConfig=DictConfig)
    module("omegaconf.nodes", AnyNode=AnyNode)
    extra = io.BytesIO()
    torch.save({"amax": torch.ones(2)}, extra)
    weights = OrderedDict(
        [
            ("model.decoder.final_layernorm.weight", torch.arange(4.0)),
            ("model.decoder.layers.0.mlp.linear_fc1._extra_state", extra),
            ("model.decoder.layers.1.mlp.linear_fc1._extra_state", None),
        ]
    )
    lightning = {
        "epoch": 0,
        "global_step": 40,
        "pytorch-lightning_version": "2.2.1",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "best": numpy.float64(0.25), "count": numpy.int64(-3)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2), "step": 40}}, "param_groups": [{"betas": (0.9, 0.95)}]}],
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"cfg": config({"mcore_gpt": True, "num_layers": 2, "mm_cfg": {"llm": {"freeze": True}}})},
    }
    torch.save(lightning, OUT / "lightning.ckpt")
    # torch's form before 1.6, which is refused.
    torch.save({"w": torch.ones(2)}, OUT / "legacy.pt", _use_new_zipfile_serialization=False)
    (OUT / "versions.json").write_text(json.dumps({"torch": torch.__version__, "numpy": numpy.__version__}) + "\n")


if __name__ == "__main__":
    main()
