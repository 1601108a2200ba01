"""Runs Hydra and OmegaConf over tables of cases and records what they answer.

    python3 test/tools/hydra_reference.py FOLDER_OF_HYDRA_AND_OMEGACONF

Writes test/fixtures/config/{overrides,merges,compositions}.json. The versions stand in each file. No test runs this:
the tests compare neva with the recorded answers.
"""

import json
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import hydra  # noqa: E402
import omegaconf  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402
from hydra.core.override_parser import types as T  # noqa: E402
from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from hydra_cases import COMPOSITIONS, FILES, MERGES, overrides  # noqa: E402

OUT = Path(__file__).parent.parent / "fixtures" / "config"
VERSIONS = {"hydra": hydra.__version__, "omegaconf": omegaconf.__version__}


def typed(value):
    """JSON that keeps Python's types apart."""
    if value is None:
        return {"null": True}
    if isinstance(value, bool):
        return {"bool": value}
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": "nan" if math.isnan(value) else repr(value)}
    if isinstance(value, str):
        return {"str": value}
    if isinstance(value, T.QuotedString):
        return {"str": value.text}
    if isinstance(value, (list, tuple)):
        return {"list": [typed(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[typed(k), typed(v)] for k, v in value.items()]}
    if isinstance(value, T.ChoiceSweep):
        return {
            "sweep": "choice",
            "items": [typed(v) for v in value.list],
            "simple": value.simple_form,
            "shuffle": value.shuffle,
            "tags": sorted(value.tags),
        }
    if isinstance(value, T.RangeSweep):
        return {
            "sweep": "range",
            "bounds": [typed(value.start), typed(value.stop), typed(value.step)],
            "shuffle": value.shuffle,
            "tags": sorted(value.tags),
        }
    if isinstance(value, T.IntervalSweep):
        return {"sweep": "interval", "bounds": [typed(value.start), typed(value.end)], "tags": sorted(value.tags)}
    if isinstance(value, T.Glob):
        return {"sweep": "glob", "include": value.include, "exclude": value.exclude}
    raise AssertionError(type(value))


def record_overrides():
    parser = OverridesParser.create()
    rows = []
    for text in overrides():
        try:
            o = parser.parse_override(text)
            prefix = {"CHANGE": "", "ADD": "+", "FORCE_ADD": "++", "DEL": "~"}[o.type.name]
            row = {"prefix": prefix, "key": o.key_or_group, "package": o.package}
            if o.value_type is not None:
                row["value"] = typed(o.value())
                if not o.is_sweep_override():
                    row["printed"] = o.get_value_element_as_str()
                elif o.is_range_sweep() and not o._value.shuffle:
                    row["jobs"] = list(o.sweep_string_iterator())
        except Exception:
            row = {"error": True}
        rows.append({"text": text, **row})
    return rows


def record_merges():
    rows = []
    for documents in MERGES:
        try:
            config = OmegaConf.merge(*[OmegaConf.create(d) for d in documents])
            row = {"value": typed(OmegaConf.to_container(config, resolve=True))}
        except Exception as error:
            row = {"error": type(error).__name__}
        rows.append({"documents": documents, **row})
    return rows


def record_compositions():
    rows = []
    for files, name, given in COMPOSITIONS:
        with tempfile.TemporaryDirectory() as folder:
            for path, text in FILES[files].items():
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
            try:
                GlobalHydra.instance().clear()
                with initialize_config_dir(folder, version_base="1.3"):
                    config = compose(name, overrides=given)
                    row = {"value": typed(OmegaConf.to_container(config, resolve=True))}
            except Exception as error:
                row = {"error": type(error).__name__}
        rows.append({"files": files, "config": name, "overrides": given, **row})
    return rows


def record_jobs():
    from hydra_cases import SWEEPS

    rows = []
    for given in SWEEPS:
        parsed = OverridesParser.create().parse_overrides(given)
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        rows.append({"overrides": given, "jobs": [list(j) for batch in jobs for j in batch]})
    return rows


def write(name, rows, **more):
    text = json.dumps({"versions": VERSIONS, **more, "cases": rows}, indent=1, ensure_ascii=False)
    (OUT / f"{name}.json").write_text(text + "\n")
    print(name, len(rows), "cases,", sum("error" in r for r in rows), "errors")


os.environ["NEVA_TEST"] = "7"
os.environ.pop("NEVA_UNSET", None)
write("overrides", record_overrides())
write("merges", record_merges())
write("compositions", record_compositions(), files=FILES)
write("jobs", record_jobs())
