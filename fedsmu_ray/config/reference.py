"""Tables for the documentation and for `fedsmu methods`, generated from the classes.

`python -m fedsmu_ray.train --list-methods` prints `methods_table`, which is docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import torch

from fedsmu_ray.algorithms.base import Method, Setting
from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.plain_data import flatten_keys
from fedsmu_ray.config.schema import PROFILES, SECTIONS, Config, declared_keys
from fedsmu_ray.config.validation import (
    DEFAULT_METHOD,
    DEFAULT_MODEL,
    DEFAULT_PROFILE,
    model_options,
    parse,
)
from fedsmu_ray.config.values import CHOICES
from fedsmu_ray.models.networks import LeNet
from fedsmu_ray.models.registry import MODELS, build
from fedsmu_ray.numerics.parameters import Layout
from fedsmu_ray.wire.base import Fields

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
_TYPES = {tuple: "list", Mapping: "mapping", str: "text", bool: "true, false"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}  # attributes of pydantic's bounds
_NO_BOUND = (2**31, 2**63)  # upper bounds that only keep integers in their machine types


def lenet_setting() -> Setting:
    """The setting that bits are counted for: the LeNet of the FedSMU paper on CIFAR-10.

    A cohort has 10 of 100 clients, and a client makes 50 local steps.
    """
    sizes = Layout.of(build("lenet", LeNet(), (3, 32, 32), 10, seed=0)).sizes
    return Setting(sizes, clients=100, cohort=10, steps=50, lr=0.1)


def bits_per_parameter(sent: Fields, setting: Setting) -> float:
    """Payload bits of one message per model parameter."""
    return 8 * sum(codec.size(setting.dim) for codec in sent.values()) / setting.dim


def methods_table() -> str:
    """The methods as Markdown: bits and state of each, then its paper and options."""
    setting = lenet_setting()
    lines = [
        "# Methods",
        "",
        "Bits per parameter, for one client and round, of the encoded payloads: LeNet with "
        f"{setting.dim:,} parameters in {len(setting.sizes)} tensors, {setting.cohort} of "
        f"{setting.clients} clients, {setting.steps} local steps. A header adds at most 64 bytes. "
        "State is in vectors of the model's size. `algorithm.profile: authors`, the default, "
        f"sets `decay`, where a method has it, to {PROFILES['authors']['algorithm.decay']:g}. "
        "Weighting is the value of `federation.weighting` in the method's paper; only: the other "
        "one is refused.",
        "",
        "| `algorithm.name` | options | upload | download | client state | server state | "
        "weighting |",
        "|---|---|--:|--:|---|---|---|",
    ]
    for name, cls in METHODS.items():
        for options in ({}, *VARIANTS.get(name, ())):
            facts = *_facts(cls(**options), setting), _weighting(cls)
            row = [f"`{name}`", _options(options), *facts]
            lines.append(f"| {' | '.join(row)} |")
    for name, cls in METHODS.items():
        lines += ["", f"## {name}", "", paper(cls), ""]
        lines += ["| option | default | values | meaning |", "|---|---|---|---|"]
        hints = get_type_hints(cls, include_extras=True)
        for f in fields(cls):
            hint = hints[f.name]
            lines.append(
                f"| `{f.name}` | {_plain(f.default)} | {_values(hint)} | {_meaning(hint)} |"
            )
    return "\n".join(lines) + "\n"


def methods_list() -> str:
    """The methods as text, one line each: name, bits per parameter, one phrase."""
    setting = lenet_setting()
    lines = [f"{'method':16} {'upload':>6} {'download':>8}  bits per parameter (LeNet)"]
    for name, cls in METHODS.items():
        up, down, *_ = _facts(cls(), setting)
        lines.append(f"{name:16} {up:>6} {down:>8}  {_phrase(cls)}")
    return "\n".join(lines) + "\n"


def method_text(name: str) -> str:
    """A method of METHODS as text: paper, bits and states of its variants, options."""
    cls, setting = METHODS[name], lenet_setting()
    lines = [f"{name}: {_phrase(cls)}", paper(cls), ""]
    lines.append(f"{'':32} {'upload':>6} {'download':>8}  client state; server state")
    for options in ({}, *VARIANTS.get(name, ())):
        shown = ", ".join(f"{key}: {_plain(value)}" for key, value in options.items())
        up, down, client, server = _facts(cls(**options), setting)
        lines.append(f"{shown or 'defaults':32} {up:>6} {down:>8}  {client}; {server}")
    lines.append("(bits per parameter, for one client and round; states in vectors of their size)")
    lines.append(f"weighting: {_weighting(cls)}")
    hints = get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        values = _values(hints[f.name])
        lines += ["", f"algorithm.{f.name}={_plain(f.default)}    {values}".rstrip()]
        lines += [f"    {_meaning(hints[f.name])}"]
    return "\n".join(lines) + "\n"


def keys_table() -> str:
    """The keys of a configuration as Markdown, with their defaults."""
    defaults = flatten_keys(parse({}).to_dict())
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for key, default, values, meaning in [*_named_keys(), *_section_keys(defaults)]:
        lines.append(f"| `{key}` | {default} | {values} | {meaning} |")
    return "\n".join(lines) + "\n"


def _phrase(cls: type) -> str:
    """What a method is: the first paragraph of its docstring, without its name."""
    first = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return first.rpartition(": ")[2].rstrip(".")


def paper(cls: type) -> str:
    """The citation of a method, on one line: the second paragraph of its docstring."""
    return " ".join((cls.__doc__ or "").split("\n\n")[1].split())


def _named_keys() -> Iterator[tuple[str, str, str, str]]:
    """Rows of the sections `algorithm` and `model`, whose keys depend on a name."""
    yield "algorithm.name", DEFAULT_METHOD, _choices("algorithm.name"), "method"
    profile = (
        "defaults of algorithm.decay, local.weight_decay and local.clip_norm: of the authors' code "
        "or the paper"
    )
    yield "algorithm.profile", DEFAULT_PROFILE, _choices("algorithm.profile"), profile
    yield "algorithm.<option>", "the method's", "", "option of the method: see `--list-methods`"
    yield "model.name", DEFAULT_MODEL, _choices("model.name"), "model"
    for option, users in model_options().items():
        cls = MODELS[users[0]]
        hint = get_type_hints(cls, include_extras=True)[option]
        default = _plain(getattr(cls, option))
        meaning = f"{', '.join(f'`{name}`' for name in users)}: {_meaning(hint)}"
        yield f"model.{option}", default, _values(hint), meaning


def _section_keys(defaults: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Rows of all other keys."""
    single = [(key, hint) for key, hint in declared_keys(Config) if key in ("name", "seed")]
    sections = [entry for name, cls in SECTIONS.items() for entry in declared_keys(cls, f"{name}.")]
    for key, hint in [*single, *sections]:
        values = _choices(key) if key in CHOICES else _values(hint)
        yield key, _plain(defaults.get(key, {})), values, _meaning(hint)


def _facts(method: Method, setting: Setting) -> tuple[str, str, str, str]:
    """Bits per parameter of upload and download, client state and server state."""
    down = bits_per_parameter(method.downlink(setting), setting)
    down += bits_per_parameter(method.feedback(setting), setting)
    x = torch.zeros(1)
    # A state of two dimensions starts as one row, and will have one for every client.
    state = [
        ", ".join(
            f"{name} (of every client)" if value.dim() == 2 else name
            for name, value in held.items()
        )
        or "none"
        for held in (method.client_init(x), method.server_init(x))
    ]
    up = bits_per_parameter(method.uplink(setting), setting)
    return f"{up:.2f}", f"{down:.2f}", state[0], state[1]


def _weighting(cls: type[Method]) -> str:
    """The weighting of a method's paper, and whether it is the only one."""
    return f"{cls.weighting} only" if cls.uniform_only else cls.weighting


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {_plain(value)}`" for key, value in options.items()) or "defaults"


def _choices(key: str) -> str:
    return ", ".join(_cell(f"`{name}`") for name in CHOICES[key])


def _plain(value: object) -> str:
    """A default as YAML would have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(hint: Any) -> str:
    """The values that an annotated type allows, as far as there are bounds or choices."""
    parts = list(_type_parts(hint))
    words = [part for part in parts if isinstance(part, (str, int))]
    words += [word for kind, word in _TYPES.items() if kind in map(_kind, parts)]
    bounds = [bound for part in parts for bound in getattr(part, "metadata", ())]
    words += [
        f"{sign} {getattr(bound, name):g}"
        for bound in bounds
        for name, sign in _BOUNDS.items()
        if getattr(bound, name, None) not in (None, *_NO_BOUND)
    ]
    words += ["null"] if type(None) in parts else []
    return ", ".join(dict.fromkeys(map(str, words)))


def _type_parts(hint: Any) -> Iterator[Any]:
    """An annotated type and its parts: members of unions, choices of literals, metadata."""
    yield hint
    if _kind(hint) is not Mapping:
        for part in get_args(hint):
            yield from _type_parts(part)


def _kind(hint: Any) -> Any:
    return get_origin(hint) or hint


def _meaning(hint: Any) -> str:
    """The description of a key: the outermost in its annotated type."""
    descriptions = [
        getattr(part, "description", None) for part in getattr(hint, "__metadata__", ())
    ]
    return _cell(next((text for text in reversed(descriptions) if text), ""))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
