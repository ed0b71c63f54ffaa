"""The table of methods, generated from the classes: `python -m fedsmu_ray.train --list-methods`, docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import torch

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.algorithms.registry import METHODS, Method
from fedsmu_ray.config.schema import PROFILES, ModelConfig
from fedsmu_ray.models import registry
from fedsmu_ray.numerics.parameters import Layout
from fedsmu_ray.wire.message import Fields

# Options that change what is sent or kept; the first row of every method has its defaults.
VARIANTS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "fedsmu": (
        {"zero_rule": "zero"},
        {"bits": 3},
        {"bits": 8, "scaled": True},
        {"bits": 32},
        {"beta1": 0.0},
    ),
    "fed_ef": ({"compressor": "sign"}, {"compressor": "heavy_sign"}),
    "ef21": ({"server_average": "participants"},),
    "fedcams": ({"compressor": "topk"},),
    "dlion": ({"vote": "majority"}, {"evaluated": "shadow"}),
    "signsgd_mv": ({"beta": 0.0},),
}


def lenet_setting() -> Setting:
    """The setting that bits are counted for: FedSMU's LeNet on CIFAR-10, 10 of 100 clients, 50 local steps."""
    sizes = Layout.of(registry.build(ModelConfig("lenet"), (3, 32, 32), 10, 0)).sizes
    return Setting(sizes, clients=100, cohort=10, steps=50, lr=0.1)


def bits_per_parameter(sent: Fields, setting: Setting) -> float:
    """Payload bits of one message per model parameter."""
    return 8 * sum(codec.size(setting.dim) for codec in sent.values()) / setting.dim


def methods_table() -> str:
    """The methods as Markdown."""
    setting = lenet_setting()
    lines = [
        "# Methods",
        "",
        f"Bits per parameter, for one client and round, of the encoded payloads: LeNet with {setting.dim:,} parameters in "
        f"{len(setting.sizes)} tensors, {setting.cohort} of {setting.clients} clients, {setting.steps} local steps. A header "
        "adds at most 64 bytes. State is in vectors of the model's size. `algorithm.profile: authors`, the default, sets "
        f"`decay`, where a method has it, to {PROFILES['authors']['algorithm.decay']:g}.",
        "",
        "| `algorithm.name` | options | upload | download | client state | server state |",
        "|---|---|--:|--:|---|---|",
    ]
    for name, cls in METHODS.items():
        for options in ({}, *VARIANTS.get(name, ())):
            lines.append(f"| `{name}` | {_options(options)} | {_row(cls(**options), setting)} |")
    for name, cls in METHODS.items():
        lines += [
            "",
            f"## {name}",
            "",
            paper(cls),
            "",
            "| option | default | values |",
            "|---|---|---|",
        ]
        lines += [
            f"| `{f.name}` | {_plain(f.default)} | {_values(hint)} |"
            for f, hint in zip(fields(cls), get_type_hints(cls, include_extras=True).values())
        ]
    return "\n".join(lines) + "\n"


def paper(cls: type) -> str:
    """The citation a method's docstring begins with, on one line."""
    return " ".join(cls.__doc__.split("\n\n")[0].split())


def _row(method: Method, setting: Setting) -> str:
    down = bits_per_parameter(method.downlink(setting), setting)
    if hasattr(method, "reply"):
        down += bits_per_parameter(method.feedback(setting), setting)
    x = torch.zeros(1)
    # What starts as one row that stands for every client becomes a row of each.
    state = [
        ", ".join(
            f"{name} (of every client)" if value.dim() == 2 else name
            for name, value in held.items()
        )
        or "none"
        for held in (method.client_init(x), method.server_init(x))
    ]
    return f"{bits_per_parameter(method.uplink(setting), setting):.2f} | {down:.2f} | {state[0]} | {state[1]}"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {_plain(value)}`" for key, value in options.items()) or "defaults"


def _plain(value: Any) -> str:
    """As YAML would have it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(hint: Any) -> str:
    """What a field's type allows."""
    words = [
        word
        for part in (hint, *get_args(hint))
        for word in get_args(part)
        if isinstance(word, (str, int))
    ]
    if words:
        return ", ".join(dict.fromkeys(map(str, words))) + (
            ", null" if type(None) in get_args(hint) else ""
        )
    if hint is bool:
        return "true, false"
    bounds = [m for field in getattr(hint, "__metadata__", ()) for m in field.metadata]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(bound, key):g}"
        for bound in bounds
        for key, sign in signs.items()
        if hasattr(bound, key)
    ]
    return ", ".join(limits)
