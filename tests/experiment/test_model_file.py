"""Model files: what is in them, that they give the model back, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations

from fedsmu_ray.config.validation import parse
from fedsmu_ray.config.yaml_files import read_yaml_text
from fedsmu_ray.errors import ConfigError, ModelFileError
from fedsmu_ray.experiment import model_file
from fedsmu_ray.experiment.model_file import check_writable, load_model, read_model
from fedsmu_ray.experiment.run import run
from fedsmu_ray.files.remote import place
from fedsmu_ray.numerics import parameters

PLAIN = {
    "name": "small",
    "data": {"clients": 10},
    "model": {"hidden": [12]},
    "local": {"epochs": 1, "batch_size": 50},
    "federation": {"rounds": 2, "cohort": 3},
    "tracking": {"uri": None},
    "compute": {"executor": "inline"},
}


class Everything(nn.Module):
    """Frozen, tied and parametrized weights, and buffers of several kinds."""

    def __init__(self, width):
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(64, width))
        self.tied = nn.Linear(width, width, bias=False)
        self.again = self.tied
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.last = nn.Linear(width, 10)
        self.register_buffer("scale", torch.full((), 2.0))
        self.register_buffer("order", torch.randperm(width), persistent=False)
        self.register_buffer("turn", torch.tensor(1j))

    def forward(self, x):
        x = self.first(x.flatten(1))[:, self.order] * self.scale * (self.turn * self.turn).real
        return self.last(self.frozen(self.again(self.tied(x))))


def everything(shape, classes, width=6):
    return Everything(width)


def trained(tmp_path, **changes):
    result = run(parse({**PLAIN, **changes}))
    file = tmp_path / "model.safetensors"
    result.save(file)
    return result, file


def sha256_of(module):
    return parameters.sha256(parameters.flatten(module), parameters.constants(module))


def test_a_saved_model_is_the_one_that_was_trained(tmp_path):
    result, file = trained(tmp_path)
    module = load_model(file)
    assert sha256_of(module) == result.summary["model_sha256"] and not module.training
    x = result.problem.sample
    assert torch.equal(module(x), result.model().eval()(x))


def test_tensors_have_their_names_in_the_module(tmp_path):
    result, file = trained(tmp_path)
    other = result.problem.module()
    assert sha256_of(other) != result.summary["model_sha256"]
    other.load_state_dict(load_file(file))
    assert sha256_of(other) == result.summary["model_sha256"]


def test_metadata_say_what_the_model_is(tmp_path):
    result, file = trained(tmp_path, tracking={"uri": None}, seed=3)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["model_sha256"] == result.summary["model_sha256"]
    assert metadata["data_digest"] == result.problem.dataset.digest()
    config = parse(read_yaml_text(metadata["config"], "the file"))
    assert config == result.problem.config
    assert json.loads(metadata["versions"])["torch"] == torch.__version__
    samples = json.loads(metadata["samples"])
    assert samples["shape"] == [1, 8, 8] and samples["classes"] == 10
    assert samples["mean"] == list(result.problem.dataset.mean)


def test_secrets_are_not_in_the_file(tmp_path):
    result = run(parse(PLAIN))
    tracking = {"uri": "http://user:hidden-word@localhost:1"}
    problem = replace(result.problem, config=parse({**PLAIN, "tracking": tracking}))
    raw = model_file.TrainedModel.of(problem, result.params).packed()
    assert b"localhost" in raw and b"hidden-word" not in raw


def test_models_with_all_kinds_of_tensors(tmp_path):
    name = f"import:{__name__}:everything"
    result, file = trained(tmp_path, model={"name": name, "options": {"width": 7}})
    module = load_model(file)
    assert sha256_of(module) == result.summary["model_sha256"]
    assert module.again is module.tied
    assert torch.equal(module(result.problem.sample), result.model()(result.problem.sample))


def test_a_model_is_loaded_in_another_process(tmp_path):
    result, file = trained(tmp_path)
    code = (
        "import sys, fedsmu_ray; from fedsmu_ray.numerics import parameters as p;"
        "m = fedsmu_ray.load_model(sys.argv[1]);"
        "print(p.sha256(p.flatten(m), p.constants(m)), 'ray' in sys.modules, 'mlflow' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert done.stdout.split() == [result.summary["model_sha256"], "False", "False"], done.stderr


def test_other_files_are_refused(tmp_path):
    _, file = trained(tmp_path)
    raw = file.read_bytes()
    with pytest.raises(ModelFileError, match="missing.safetensors: cannot be read: No such file"):
        load_model(tmp_path / "missing.safetensors")
    with pytest.raises(ModelFileError, match="a folder, not a model file"):
        load_model(tmp_path)
    other = tmp_path / "other"
    for content in (b"", b"PK\x03\x04 no tensors", raw[:-1], b"\xff" * 100):
        other.write_bytes(content)
        with pytest.raises(ModelFileError, match="other: not a model file"):
            load_model(other)
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(ModelFileError, match="without a model of fedsmu_ray; `train --save FILE`"):
        load_model(other)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    for changed, message in (
        ({"version": "2"}, "version 2 of model files, this program reads version 1"),
        ({"samples": "{}"}, "damaged metadata"),
    ):
        save_file(load_file(file), other, {**metadata, **changed})
        with pytest.raises(ModelFileError, match=message):
            load_model(other)


def test_a_changed_tensor_is_noticed(tmp_path):
    _, file = trained(tmp_path)
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ModelFileError, match="the file is damaged, or the code of the model has"):
        load_model(file)


def test_another_module_than_the_saved_one_is_noticed(tmp_path):
    _, file = trained(tmp_path)
    model = read_model(file)
    config = model.config.replace("- 12", "- 13")
    assert config != model.config
    object.__setattr__(model, "config", config)
    message = r"its 1.bias is torch.float32 \[12\], but model.name = mlp has torch.float32 \[13\]"
    with pytest.raises(ModelFileError, match=message):
        model.module()


def test_code_that_is_missing_is_named(tmp_path):
    _, file = trained(tmp_path)
    model = read_model(file)
    config = model.config.replace("name: mlp", "name: import:gone_away:net")
    config = config.replace("  hidden:\n  - 12\n", "")
    object.__setattr__(model, "config", config)
    with pytest.raises(ConfigError, match="model.name = import:gone_away:net"):
        model.module()


def test_where_a_model_cannot_be_saved_is_noticed_before_training(tmp_path):
    check_writable(place(tmp_path / "new" / "model.safetensors"))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a folder; give a file"):
        check_writable(tmp_path)
    with pytest.raises(ConfigError, match=r"--save .*/file/model: cannot be written \(.+\)"):
        check_writable(tmp_path / "file" / "model")
