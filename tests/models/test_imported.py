"""User models by `import:`."""

import subprocess
import sys

import pytest
import ray.cloudpickle as cloudpickle

from fedsmu_ray import plugins
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem


def problem(name, **more):
    return Problem.of(
        parse({"data": {"clients": 20}, "model": {"name": name, **more}, "local": {"epochs": 1}})
    )


def test_a_users_own_model():
    own = problem("import:tests.helpers.models:dropout_mlp", options={"width": 8})
    assert own.dim == 65 * 8 + 9 * 10
    assert own.group_size == 1  # dropout draws depend on the client, so clients train one by one


def test_a_module_that_raises_when_imported_is_reported(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("def model(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="importing half_written raised SyntaxError: "):
        problem("import:half_written:model")


def test_a_loaded_model_needs_no_file_where_it_is_built(tmp_path, monkeypatch):
    """As on another node: the module is pickled by value, and its file does not exist."""
    (tmp_path / "only_here.py").write_text(
        "from torch import nn\nWIDTH = 3\ndef model(shape, classes):\n    return nn.Linear(WIDTH, "
        "classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = parse({"model": {"name": "import:only_here:model"}})
    (module,) = [m for m in plugins.user_modules() if m.__name__ == "only_here"]
    cloudpickle.register_pickle_by_value(module)
    try:
        (tmp_path / "model.pickle").write_bytes(cloudpickle.dumps(config))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    (tmp_path / "only_here.py").unlink()
    code = (
        "import pickle; from fedsmu_ray.models import registry\n"
        "config = pickle.load(open('model.pickle', 'rb'))\n"
        "print(registry.build(config.model_name, config.model, (3,), 4, 0).weight.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "torch.Size([4, 3])", done.stderr
