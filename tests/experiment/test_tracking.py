"""The plain data of a run that trackers get."""

import json

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.display.colors import color_of
from fedsmu_ray.experiment.tracking import DATA_DIGEST, new_run

CONFIG = parse({"name": "t", "federation": {"rounds": 40, "cohort": 5}, "data": {"clients": 20}})


def test_the_run_of_a_configuration():
    run = new_run("trial 3", CONFIG, {"fedsmu.sweep": "trial"}, "parent")
    assert run.name == "trial 3" and run.parent == "parent"
    assert run.tags == {
        "mlflow.source.name": "fedsmu_ray",
        "fedsmu.method": "fedsmu",
        "fedsmu.dataset": "digits",
        "fedsmu.split": "Dirichlet(0.25), 20 clients",
        "fedsmu.metric": "test/accuracy",
        "mlflow.runColor": color_of("fedsmu"),
        "fedsmu.sweep": "trial",
    }
    assert run.dataset is None
    assert run.params == {k: str(v) for k, v in CONFIG.flat().items() if k != "name"}
    assert run.params["federation.rounds"] == "40" and "name" not in run.params
    assert run.files == {"config.yaml": CONFIG.to_yaml()}
    assert new_run("t", CONFIG).parent is None


def test_the_data_set_is_told_by_its_digest():
    dataset = new_run("t", CONFIG, {DATA_DIGEST: "abc"}).dataset
    assert (dataset["name"], dataset["digest"]) == ("digits", "abc")
    assert json.loads(dataset["profile"]) == {"split": "Dirichlet(0.25), 20 clients"}


def test_samples_that_no_client_has_are_part_of_the_split():
    config = parse({"data": {"validation": 0.125, "partition": {"kind": "iid"}}})
    assert new_run("t", config).tags["fedsmu.split"] == "IID, 100 clients, 12.5 % for validation"


@pytest.mark.parametrize(
    "swept, missing",
    [
        ({"seed"}, {"seed"}),
        ({"local.lr"}, {"local.lr"}),
        ({"algorithm.name"}, {k for k in CONFIG.flat() if k.startswith("algorithm.")}),
        ({"model.name"}, {"model.name", "model.hidden"}),
        (
            {"algorithm.profile"},
            {"algorithm.profile", "algorithm.decay", "local.weight_decay", "local.clip_norm"},
        ),
    ],
)
def test_the_run_of_a_sweep_has_what_all_its_trials_share(swept, missing):
    run, whole = new_run("t", CONFIG, swept=swept), new_run("t", CONFIG)
    assert whole.params.keys() - run.params.keys() == missing
    assert ("fedsmu.method" in run.tags) == ("mlflow.runColor" in run.tags)
    assert ("fedsmu.method" in run.tags) == ("algorithm.name" not in swept)
    assert "fedsmu.split" not in new_run("t", CONFIG, swept={"data.partition.alpha"}).tags
