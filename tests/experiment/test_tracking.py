"""The plain data of a run that trackers get."""

from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.tracking import new_run

CONFIG = parse({"name": "t", "federation": {"rounds": 40, "cohort": 5}, "data": {"clients": 20}})


def test_the_run_of_a_configuration():
    run = new_run("trial 3", CONFIG, {"fedsmu.sweep": "trial"}, "parent")
    assert run.name == "trial 3" and run.parent == "parent"
    assert run.tags == {
        "mlflow.source.name": "fedsmu_ray",
        "fedsmu.method": "fedsmu",
        "fedsmu.sweep": "trial",
    }
    assert run.params == {k: str(v) for k, v in CONFIG.flat().items() if k != "name"}
    assert run.params["federation.rounds"] == "40" and "name" not in run.params
    assert run.files == {"config.yaml": CONFIG.to_yaml()}
    assert new_run("t", CONFIG).parent is None
