"""Reads NeMo archives that neva wrote as NeMo's own code would, and compares them with the model they came from.

    python3 test/tools/check_nemo.py HF_FOLDER ARCHIVE…

Every shard is read by torch.load(weights_only=True), mapped too; zip checksums are verified; the expected tensors are made by
foreign_models.py's independent fusion. Prints one line an archive; exits with 1 at the first difference.
"""

import io
import re
import sys
import tarfile
import tempfile
import zipfile
from collections import OrderedDict

import foreign_models as fm
import torch
import yaml
from safetensors.torch import load_file


def main(hf, archives):
    own = load_file(hf + "/model.safetensors")
    llm = {k.removeprefix("language_model."): v for k, v in own.items() if k.startswith("language_model.")}
    proj = OrderedDict()
    for k, v in own.items():
        if match := re.match(r"multi_modal_projector\.linear_(\d)(\..*)", k):
            proj[f"{2 * int(match[1]) - 2}{match[2]}"] = v
    vision = {k.removeprefix("vision_tower."): v for k, v in own.items() if k.startswith("vision_tower.")}
    for path in archives:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            config = yaml.safe_load(tar.extractfile("./model_config.yaml").read())
            tp, pp = config["tensor_model_parallel_size"], config["pipeline_model_parallel_size"]
            count = 0
            for name in names:
                if not name.endswith("model_weights.ckpt"):
                    continue
                match = re.match(r"\./(?:mp_rank_(\d+)/|tp_rank_(\d+)_pp_rank_(\d+)/)?model_weights.ckpt", name)
                rank, stage = int(match[1] or match[2] or 0), int(match[3] or 0)
                raw = tar.extractfile(name).read()
                assert zipfile.ZipFile(io.BytesIO(raw)).testzip() is None
                found = torch.load(io.BytesIO(raw), weights_only=True)
                with tempfile.NamedTemporaryFile() as file:
                    file.write(raw)
                    file.flush()
                    mapped = torch.load(file.name, weights_only=True, mmap=True)
                if "vision" in config:
                    expected = {k: v for k, v in fm.clip_rank(vision, tp, rank).items() if "backbone" in k}
                else:
                    names_of = fm.MCORE if config["mcore_gpt"] else fm.LEGACY
                    adapter = proj if "mm_cfg" in config else None
                    expected = fm.nemo_rank(llm, names_of, tp, rank, pp, stage, adapter)
                    expected = {k: v for k, v in expected.items() if isinstance(v, torch.Tensor)}
                    if config["mcore_gpt"]:
                        expected = {k: v for k, v in expected.items() if "inv_freq" not in k}
                assert found.keys() == expected.keys(), (path, name, found.keys() ^ expected.keys())
                for key, value in expected.items():
                    if "inv_freq" in key:  # the fixture's is a stand-in
                        value = 1.0 / 10000.0 ** (torch.arange(0, fm.HD, 2).float() / fm.HD)
                        torch.testing.assert_close(found[key], value)
                        continue
                    for got in (found[key], mapped[key]):
                        assert got.dtype == value.dtype and got.shape == value.shape, (path, name, key, got.shape)
                        assert torch.equal(got, value), (path, name, key)
                count += 1
            assert count == tp * pp, path
        print(f"{path}: tp {tp} pp {pp}, {count} files equal")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
