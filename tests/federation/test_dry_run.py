"""The dry run: what training cannot do with a model is refused before anything starts."""

import numpy as np
import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.experiment.run import run
from fedsmu_ray.federation.problem import Problem

MODELS = "import:tests.helpers.odd_models:"


def config(model, batch_size=50, **options):
    """143 samples for each of 10 clients: with batches of 142, all have a last batch of one."""
    return parse(
        {
            "data": {"clients": 10, "partition": {"kind": "iid"}},
            "model": {"name": f"{MODELS}{model}", "options": options},
            "local": {"epochs": 1, "batch_size": batch_size},
            "federation": {"rounds": 2, "cohort": 4},
            "compute": {"executor": "inline"},
            "tracking": {"uri": None},
        }
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "model",
    [
        "FrozenByTrain",
        "frozen_by_eval",
        "UnusedBatchNorm",
        "lazy",
        "old_weight_norm",
        "weight_norm",
        "Tied",
        "Locked",
        "ChangesInputs",
        "Checkpointed",
        "double",
        "Half",
        "EmptyParameter",
        "Squeeze",
        "batch_statistics",
    ],
)
def test_what_training_can_do_is_not_refused(model):
    """The model that the run returns has the accuracy that the run reports."""
    result = run(config(model))
    data = result.problem.dataset
    inputs, labels = DeviceData(data, torch.device("cpu")).test_batch(0, len(data.test_y))
    with torch.no_grad():
        accuracy = (result.model().eval()(inputs).argmax(-1) == labels).float().mean()
    assert result.summary["test_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    assert np.isfinite(result.summary["test_loss"])


def refused(model, message, **more):
    with pytest.raises(ConfigError, match=f"model.name = {MODELS}{model}: {message}"):
        Problem.of(config(model, **more))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize(
    "model, message",
    [
        ("scripted", "it is a RecursiveScriptModule; return the module without torch.jit"),
        ("parallel", "it is a DataParallel; return the network inside it"),
        ("spectral_norm", r"training changes its buffers \(1.parametrizations.*keep these in eval"),
        ("Complex", "its parameter layer.weight is torch.complex64, .* torch.view_as_complex"),
        ("on_meta", "preparing the module raised NotImplementedError.*return a module that is on"),
        ("built_once", "its parameter 1.weight is the same tensor whenever the model is built; cr"),
        ("a_class", "it returned the class Linear, not an instance; it must return a torch.nn.Mod"),
        ("LazyBranch", "preparing the module raised ValueError: forward does not use.* of branch"),
    ],
)
def test_modules_that_training_cannot_take_are_refused(model, message):
    refused(model, message)


def test_embeddings_that_change_their_weights_are_refused():
    refused("Embeds", "it changes its parameters in forward; .* leave max_norm out", max_norm=1)
    refused("Embeds", r"a training step raised .* use Embedding\(sparse=False\)", sparse=True)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("nan", "its initial parameter layer.weight holds NaN or Inf; initialize it"),
        ("nan_gradient", "the loss of its first training samples, or the gradient, is NaN or Inf"),
        ("detached", r"a training step raised RuntimeError: .*loss\(model\(inputs\), t"),
        (
            "toggles",
            r"a training step raised RuntimeError: One of the differentiated .* loss\(",
        ),
        ("changes_parameters", "it changes its parameters in forward; use changed copies"),
        ("changes_in_evaluation", "it changes its parameters in forward; use changed copies"),
        ("uses_copies", r"its forward uses copies of its parameters \(.data or .*self.weight"),
        ("exits", r"it cannot take inputs \[2, 1, 8, 8\] .*SystemExit: done \(.*odd_models.py:"),
        ("fails_in_evaluation", "in evaluation, it raised AssertionError: for training only"),
        ("tuple_in_evaluation", "in evaluation, it returns a tuple; it must return one tensor"),
        ("integers", "in training, it returns torch.int64; return real numbers"),
    ],
)
def test_forwards_that_training_cannot_use_are_refused(kind, message):
    refused("Forward", message, kind=kind)


@pytest.mark.parametrize("model", ["Squeeze", "batch_statistics"])
def test_a_batch_of_one_is_tried_where_a_client_has_one(model):
    message = r"with a batch of one sample, which client 0 has \(local.batch_size = {}\): .*local"
    for size in (142, 1):
        refused(model, message.format(size), batch_size=size)
    Problem.of(config("lazy", batch_size=142))


def test_a_batch_of_one_is_tried_where_the_test_set_ends_with_one():
    x, y = np.zeros((501, 1, 8, 8), np.float32), np.arange(501) % 10
    data = Dataset("odd", x[:60], y[:60], x, y, 10)
    message = "with a batch of one sample, the last of the 501 test samples: in training.* keep its"
    with pytest.raises(ConfigError, match=message):
        Problem.of(config("Squeeze"), data)


def test_a_batch_of_one_is_tried_where_a_client_holds_out_one():
    plain = config("Squeeze", batch_size=40).to_dict()
    plain["data"]["clients"], plain["evaluation"]["clients"] = 200, "all"
    message = r"one sample, the last one that client 0 holds out \(evaluation.share\): .* keep its"
    with pytest.raises(ConfigError, match=message):
        Problem.of(parse(plain))
    plain["evaluation"]["clients"] = "none"
    Problem.of(parse(plain))


def test_a_model_that_changes_its_inputs_leaves_the_test_set_alone():
    x, y = np.ones((60, 1, 8, 8), np.float32), np.arange(60) % 10
    data = Dataset("odd", x.copy(), y, x, y, 10)
    Problem.of(config("ChangesInputs"), data)
    assert np.array_equal(data.test_x, np.ones_like(x))


def test_a_model_that_draws_in_evaluation_too_gives_the_same_run_again():
    first, again = (run(config("DrawsInEvaluation")) for _ in range(2))
    assert first.summary["model_sha256"] == again.summary["model_sha256"]
    assert first.summary["test_loss"] == again.summary["test_loss"]
