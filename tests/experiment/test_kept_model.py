"""The model of a run: which are kept, where, and how they are found again."""

import shutil
import sys

import numpy as np
import pytest
import torch

from fedsmu_ray import plugins
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ModelFileError
from fedsmu_ray.experiment import kept_model
from fedsmu_ray.experiment import run as module
from fedsmu_ray.experiment.kept_model import find_model
from fedsmu_ray.experiment.model_file import load_model, unpacked
from fedsmu_ray.experiment.run import run
from fedsmu_ray.numerics import parameters
from fedsmu_ray.tracking.base import NoTracker
from fedsmu_ray.tracking.metrics import final_metrics

NOWHERE = "sqlite:///none.db"


class Recording(NoTracker):
    """A tracker that records in which order models are logged and runs end."""

    uri = "recording:"

    def __init__(self):
        self.models, self.calls = [], []

    def start(self, run):
        return "the-id"

    def log_model(self, run_id, model):
        self.calls.append(run_id)
        self.models.append(model)

    def finish(self, run_id, status="FINISHED", metrics=None, tags=None):
        self.calls.append(status)


@pytest.fixture
def recording(monkeypatch):
    tracker = Recording()
    monkeypatch.setattr(module, "open_tracker", lambda *arguments: tracker)
    return tracker


def config_of(tmp_path, **tracking):
    return parse(
        {
            "name": "small",
            "data": {"clients": 10},
            "model": {"name": "linear"},
            "local": {"epochs": 1, "batch_size": 50},
            "federation": {"rounds": 2, "cohort": 3},
            "compute": {"executor": "inline"},
            "checkpoint": {"every": 2, "folder": str(tmp_path)},
            "tracking": tracking,
        }
    )


def sha256_of(module):
    return parameters.sha256(parameters.flatten(module), parameters.constants(module))


def test_the_model_of_a_run_is_logged_before_the_run_ends(recording, tmp_path):
    result = run(config_of(tmp_path, register="the best"))
    assert recording.calls == ["the-id", "FINISHED"]
    (model,) = recording.models
    sha256 = result.summary["model_sha256"]
    assert model.sha256 == sha256 == sha256_of(model.module)
    assert unpacked(model.file, "").model_sha256 == sha256
    assert model.name == "small-fedsmu" and model.register == "the best"
    assert model.example.shape == (1, 1, 8, 8) and model.example.dtype == np.float32
    assert model.module(torch.from_numpy(model.example)).shape == (1, model.classes)
    assert model.metrics == final_metrics(result.summary)
    assert model.dataset == "digits" and model.data_digest == result.problem.dataset.digest()
    (folder,) = tmp_path.iterdir()
    assert sha256_of(load_model(folder / "model.safetensors")) == sha256


def test_no_model_is_kept_on_request(recording, tmp_path):
    run(config_of(tmp_path, models="none"))
    (folder,) = tmp_path.iterdir()
    assert recording.calls == ["FINISHED"] and not list(folder.glob("model*"))


def test_without_tracking_the_folder_has_the_model(tmp_path):
    summary = run(config_of(tmp_path, uri=None)).summary
    (folder,) = tmp_path.iterdir()
    assert find_model(str(folder), NOWHERE).model_sha256 == summary["model_sha256"]


def test_a_folder_that_cannot_be_written_is_one_warning(recording, tmp_path, monkeypatch, caplog):
    def full(path, model):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_model, "save_model", full)
    result = run(config_of(tmp_path))
    assert recording.calls == ["the-id", "FINISHED"] and result.summary["rounds"] == 2
    (record,) = caplog.records
    assert "the trained model is not in " in record.getMessage()
    assert "No space left on device" in record.getMessage()


def test_a_model_that_cannot_be_made_is_one_warning(recording, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise KeyError("complex128")

    monkeypatch.setattr(kept_model, "new_model", fail)
    result = run(config_of(tmp_path))
    assert recording.calls == ["FINISHED"] and result.summary["rounds"] == 2
    (record,) = caplog.records
    assert "the trained model is not kept (KeyError: 'complex128')" in record.getMessage()


def test_models_are_found_in_files_and_folders(tmp_path):
    summary = run(config_of(tmp_path, uri=None)).summary
    (folder,) = tmp_path.iterdir()
    file = folder / "model.safetensors"
    assert find_model(str(file), NOWHERE).model_sha256 == summary["model_sha256"]
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    with pytest.raises(ModelFileError, match="sweep: a folder without a model"):
        find_model(str(sweep), NOWHERE)
    shutil.copy(file, sweep / "model-012.safetensors")
    assert find_model(str(sweep), NOWHERE).model_sha256 == summary["model_sha256"]
    shutil.copy(file, sweep / "model-003.safetensors")
    with pytest.raises(ModelFileError, match="give one of model-003.*, model-012.safetensors"):
        find_model(str(sweep), NOWHERE)


def test_a_model_of_the_users_is_imported_from_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "net_of_a_kept_model.py").write_text(
        "from torch import nn\n\ndef net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    recipe = tmp_path / "recipe" / "r.yaml"
    recipe.write_text(config_of(tmp_path, uri=None).to_yaml())
    name = "import:net_of_a_kept_model:net"
    result = run(load_config(recipe, {"model": {"name": name}, "checkpoint.every": 1}))
    (folder,) = tmp_path.glob("small-*")
    del sys.modules["net_of_a_kept_model"]
    plugins.search_in([])  # as in another process
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "recipe")])
    model = find_model(str(folder), NOWHERE)
    assert sha256_of(model.module()) == result.summary["model_sha256"]
