"""The generated tables of methods and keys, and the message sizes in them (oracle [30])."""

import subprocess
import sys
from dataclasses import fields
from math import ceil, log2
from pathlib import Path

import pytest

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.reference import VARIANTS, keys_table, lenet_setting, methods_table, paper
from fedsmu_ray.config.validation import known_keys, parse
from fedsmu_ray.sweeps import space

DOCS = Path(__file__).parent.parent.parent / "docs" / "methods.md"
README = Path(__file__).parent.parent.parent / "README.md"
SETTING = lenet_setting()
D, L, K, N = SETTING.dim, 10, 50, 10
LOG = ceil(log2(D))
TOP = round(0.05 * D)
PER_TENSOR = sum(max(1, round(0.05 * size)) for size in SETTING.sizes)

# Upload and download (feedback included) in bits, from the papers' formulas. Sparse messages use a
# mask of d bits where it is shorter than the indices.
BITS = [
    ("fedsmu", {}, D, 32 * D),
    ("fedsmu", {"zero_rule": "zero"}, 8 * ceil(D / 5), 32 * D),
    ("fedsmu", {"bits": 3}, 3 * D, 32 * D),
    ("fedsmu", {"bits": 8, "scaled": True}, 8 * D + 32 * L, 32 * D),
    ("fedsmu", {"bits": 32}, 32 * D, 32 * D),
    ("fedsmu", {"bits": 1, "rounding": "stochastic"}, D, 32 * D),
    ("fedsmu", {"vote": "majority"}, D, 32 * D),
    ("fedsmu_mc", {}, 33 * D, 64 * D),
    ("fed_local_lion", {}, 32 * D, 32 * D),
    ("fed_global_lion", {}, 32 * D, 32 * D),
    ("fedavg", {}, 32 * D, 32 * D),
    ("scaffold", {}, 64 * D, 64 * D),
    ("scallion", {}, 4 * D + 32 * L, 64 * D),
    ("fed_ef", {}, 32 * TOP + min(LOG * TOP, D), 32 * D),
    ("fed_ef", {"k_ratio": 0.1}, 32 * round(0.1 * D) + D, 32 * D),
    ("fed_ef", {"index": "index"}, TOP * (32 + LOG), 32 * D),
    ("fed_ef", {"index": "index32"}, 64 * TOP, 32 * D),
    ("fed_ef", {"k_ratio": 0.01}, round(0.01 * D) * (32 + LOG), 32 * D),
    ("fed_ef", {"compressor": "sign"}, D + 32 * L, 32 * D),
    (
        "fed_ef",
        {"compressor": "heavy_sign", "index": "index"},
        PER_TENSOR * (1 + LOG) + 32 * L,
        32 * D,
    ),
    ("fed_ef", {"compressor": "none"}, 32 * D, 32 * D),
    ("fedlion", {}, (32 + ceil(log2(2 * K + 1))) * D, 64 * D),
    ("ef21", {"index": "index"}, TOP * (32 + LOG), 32 * D),
    ("ef21", {"server_average": "participants"}, 32 * TOP + min(LOG * TOP, D), 32 * D),
    ("fedams", {}, 32 * D, 32 * D),
    ("fedcams", {}, D + 32, 32 * D),
    ("dlion", {}, D, D * ceil(log2(N + 1))),
    ("dlion", {"vote": "majority", "tie_rule": "random"}, D, D),
    ("dlion", {"vote": "majority"}, D, 8 * ceil(D / 5)),
    ("dlion", {"local": "lion", "evaluated": "shadow"}, D, D * ceil(log2(N + 1))),
    ("signsgd_mv", {}, D, 32 * D),
    *(
        (name, {}, 32 * D, 32 * D)
        for name in ("fedprox", "fedavgm", "fedadam", "fedyogi", "feddyn", "fednova")
    ),
]


@pytest.mark.parametrize("name, options, up, down", BITS)
def test_bits_of_the_papers_formulas(name, options, up, down):
    method = METHODS[name](**options)
    received = {
        **method.downlink(SETTING),
        **method.feedback(SETTING),
    }
    for sent, bits in ((method.uplink(SETTING), up), (received, down)):
        sections = 3 * len(sent)  # scales, codes and indices are each rounded up to whole bytes
        assert 0 <= 8 * sum(codec.size(D) for codec in sent.values()) - bits < 8 * sections


def test_every_method_has_its_formula():
    assert {name for name, *_ in BITS} == set(METHODS)


def test_docs_are_current():
    command = f"python -m fedsmu_ray.train --list-methods > docs/{DOCS.name}"
    assert DOCS.read_text(encoding="utf-8") == methods_table(), f"run: {command}"


def test_table_names_every_method_paper_and_option():
    table = methods_table()
    for name, cls in METHODS.items():
        assert table.count(f"| `{name}` |") == 1 + len(VARIANTS.get(name, ()))
        assert paper(cls) in table and len(paper(cls)) > 40
        assert all(f"| `{f.name}` |" in table for f in fields(cls))


def test_every_option_has_a_description():
    rows = [line.split(" | ") for line in methods_table().split("## ", 1)[1].splitlines()]
    options = [row for row in rows if len(row) == 4 and row[0].startswith("| `")]
    assert len(options) > 80 and all(row[3].strip("| ") for row in options)


def test_table_names_every_key_with_its_default_and_description():
    rows = [line.strip("| ").split(" | ") for line in keys_table().splitlines()[2:]]
    named = {row[0].strip("`"): row for row in rows}
    keys = {key for key in known_keys() if not key.startswith("algorithm.")}
    assert set(named) == keys | {"algorithm.name", "algorithm.profile", "algorithm.<option>"}
    assert len(named) == len(rows) and all(row[3] for row in rows)
    assert named["local.weight_decay"][1] == f"{parse({}).local.weight_decay:g}"
    assert named["tune.search"][2] == "grid, random, optuna"


def test_the_command_prints_it():
    command = [sys.executable, "-m", "fedsmu_ray.train", "--list-methods"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        == methods_table()
    )


def test_the_recipe_runs_every_method():
    config = load_config(DOCS.parent.parent / "tune_configs" / "methods_digits.yaml")
    space.check(config)
    assert {
        space.trial_config(config, trial).method_name for trial in space.list_params(config)
    } == set(METHODS)


def test_the_readme_shows_the_same_table():
    shown = README.read_text().split("<!-- methods -->")[1].split("<!-- /methods -->")[0].strip()
    assert shown.startswith("| `algorithm.name` |") and shown in methods_table()
