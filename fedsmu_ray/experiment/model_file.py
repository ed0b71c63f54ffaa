"""The file of a trained model: its tensors by name, and all that is needed to build it again.

A safetensors file, which loads without running code. Every parameter and buffer of the module has
its name in `state_dict`. The metadata are:

    format, version   "fedsmu_ray.model" and "1"
    config            the configuration as YAML, without secrets
    model_sha256      of the model, as in the results of its run
    data_digest       of the data set that it was trained on (`Dataset.digest`)
    samples           of that data set, as JSON (`Samples`)
    versions          of the software that trained it, as JSON
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.config.yaml_files import read_yaml_text
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError, ModelFileError
from fedsmu_ray.executors.versions import versions
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place, place
from fedsmu_ray.models import registry
from fedsmu_ray.numerics import parameters
from fedsmu_ray.objectives.targets import Targets

FORMAT, VERSION = "fedsmu_ray.model", "1"

_Size = Annotated[int, Field(ge=1, lt=2**31)]


@dataclass(frozen=True)
class Samples:
    """What a model takes and returns: the facts of its data set."""

    shape: tuple[_Size, ...]  # of one sample
    classes: _Size  # outputs
    symbols: _Size | None  # different tokens; None if samples are numbers
    mean: tuple[float, ...] | None  # per channel, with which images are normalized (see `Dataset`)
    std: tuple[float, ...] | None
    targets: Targets = "classes"

    @staticmethod
    def of(dataset: Dataset) -> Samples:
        """Those of a data set."""
        return Samples(
            dataset.shape,
            dataset.classes,
            dataset.symbols,
            dataset.mean,
            dataset.std,
            dataset.targets,
        )


@dataclass(frozen=True)
class TrainedModel:
    """The content of a model file."""

    tensors: dict[str, Tensor] = field(repr=False)  # parameters and buffers by name
    config: str = field(repr=False)  # YAML
    model_sha256: str
    data_digest: str
    samples: Samples
    versions: dict[str, str] = field(default_factory=versions)
    source: str = "the model"  # where it is from, for messages

    @staticmethod
    def of(problem: Problem, params: NDArray[Any]) -> TrainedModel:
        """The model that an experiment has trained; params: the model vector, float32 [P]."""
        x = torch.from_numpy(params.copy())
        module = parameters.load_into(problem.module(), x)
        config, dataset = problem.config.anywhere(), problem.dataset
        return TrainedModel(
            {name: tensor.clone() for name, tensor in _tensors(module).items()},
            config.to_yaml(),
            parameters.sha256(x, problem.probed.constants),
            dataset.digest(),
            Samples.of(dataset),
        )

    def packed(self) -> bytes:
        """The content of the file."""
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config,
            "model_sha256": self.model_sha256,
            "data_digest": self.data_digest,
            "samples": json.dumps(asdict(self.samples)),
            "versions": json.dumps(self.versions),
        }
        raw = save({name: t.contiguous() for name, t in self.tensors.items()}, metadata)
        # safetensors writes metadata in random order; a model always has the same bytes here.
        end = 8 + int.from_bytes(raw[:8], "little")
        header = json.dumps(json.loads(raw[8:end]), sort_keys=True).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + raw[end:]

    def plain_config(self) -> dict[str, Any]:
        """The nested mapping of the configuration."""
        return read_yaml_text(self.config, f"{self.source}: config")

    def module(self) -> nn.Module:
        """The model, in evaluation mode.

        Raises ConfigError if a model of the user's cannot be imported, and ModelFileError if the
        module that is built is not the one that was saved.
        """
        plain = self.plain_config()
        config = parse({key: plain[key] for key in ("seed", "model", "task") if key in plain})
        samples = self.samples
        module = registry.build(
            config.model_name,
            config.model,
            samples.shape,
            samples.classes,
            config.seed,
            samples.symbols,
            samples.targets == "tokens",
            config.task.output,
        )
        self._fill(module, config)
        return module.eval()

    def _fill(self, module: nn.Module, config: Config) -> None:
        """Write the tensors into a module that was built anew."""
        own = _tensors(module)
        saved, built = _shapes(self.tensors), _shapes(own)
        if differing := sorted(n for n in saved | built if saved.get(n) != built.get(n)):
            name = differing[0]
            raise ModelFileError(
                f"{self.source}: its {name} is {saved.get(name, 'missing')}, but model.name = "
                f"{config.model_name} has {built.get(name, 'no such tensor')}; restore the code "
                "that it was trained with"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.tensors[name])
        found = parameters.sha256(parameters.flatten(module), parameters.constants(module))
        if found != self.model_sha256:
            raise ModelFileError(
                f"{self.source}: the model has SHA-256 {found[:12]}, and {self.model_sha256[:12]} "
                "when it was saved: the file is damaged, or the code of the model has changed"
            )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers on the CPU by their names in `state_dict`.

    Buffers that it leaves out (`persistent=False`) are part of the model here.
    """
    state = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    return {**{name: t.detach() for name, t in module.named_buffers()}, **state}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: f"{t.dtype} {list(t.shape)}" for name, t in tensors.items()}


def save_model(path: Place, model: TrainedModel) -> None:
    """Write a model file, whole or not at all; raises OSError."""
    write(path, model.packed())


def read_model(path: str | Path | Place) -> TrainedModel:
    """Read a model file; path: a path or a URI.

    Raises ModelFileError if it cannot be read or is none.
    """
    shown = str(path)
    try:
        is_here = isinstance(path, (str, Path)) and Path(path).exists()
        file = Path(str(path)) if is_here else place(path)
        if file.is_dir():
            raise ModelFileError(f"{shown}: a folder, not a model file")
        raw = file.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{shown}: cannot be read: {error.strerror}") from None
    return unpacked(raw, shown)


def unpacked(raw: bytes, source: str) -> TrainedModel:
    """The model of a file's content; source: the file, for messages. Raises ModelFileError."""
    try:
        tensors = load(raw)
        metadata = _metadata(raw)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a dtype torch lacks
        said = " ".join(str(error).split())[:200]
        raise ModelFileError(f"{source}: not a model file (no safetensors file: {said})") from None
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{source}: a safetensors file without a model of fedsmu_ray; `train --save FILE` "
            "writes one"
        )
    if metadata["version"] != VERSION:
        raise ModelFileError(
            f"{source}: version {metadata['version'][:20]} of model files, this program reads "
            f"version {VERSION}"
        )
    try:
        return TrainedModel(
            tensors,
            metadata["config"],
            metadata["model_sha256"],
            metadata["data_digest"],
            TypeAdapter(Samples).validate_json(metadata["samples"]),
            TypeAdapter(dict[str, str]).validate_json(metadata["versions"]),
            source,
        )
    except (KeyError, ValidationError) as error:
        raise ModelFileError(f"{source}: damaged metadata ({str(error)[:200]})") from None


def _metadata(raw: bytes) -> dict[str, str]:
    """The metadata in the header of a safetensors file, which safetensors has found valid."""
    length = int.from_bytes(raw[:8], "little")
    metadata: dict[str, str] = json.loads(raw[8 : 8 + length]).get("__metadata__") or {}
    return metadata


def load_model(path: str | Path) -> nn.Module:
    """The trained module in a model file (of `train --save`, or of a run), in evaluation mode.

    It takes inputs float32 [B, *shape] (int64 for tokens), images normalized as in training, and
    returns logits [B, classes]. Raises ModelFileError if the file is none or is damaged, and
    ConfigError if the code of a user's model (`model.name: import:...`) cannot be imported.
    """
    return read_model(path).module()


def check_writable(path: Place) -> None:
    """Make the folder of a file that is to be written; raises ConfigError if that is in vain."""
    if not isinstance(path, Path):
        return
    if path.is_dir():
        raise ConfigError([f"--save {path}: a folder; give a file, such as {path / 'model'}"])
    probe = path.with_name(f".{path.name}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError([f"--save {path}: cannot be written ({error.strerror})"]) from None
