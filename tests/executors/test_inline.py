"""The executor in this process: what the user's code raises is an error of its task."""

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ClientError
from fedsmu_ray.experiment.run import run


@pytest.mark.parametrize(
    "kind, message",
    [
        ("exits_for_large_batches", r"round 1, client.*: SystemExit: 0 \(.*odd_models.py:"),
        (
            "fails_in_large_evaluations",
            "evaluation on test samples 0 to 360: AssertionError: too m",
        ),
    ],
)
def test_what_a_model_raises_late_names_the_task(kind, message):
    config = {
        "data": {"clients": 10, "partition": {"kind": "iid"}},
        "model": {"name": "import:tests.helpers.odd_models:Forward", "options": {"kind": kind}},
        "federation": {"rounds": 1, "cohort": 4},
        "compute": {"executor": "inline", "clients_per_task": 1},
        "tracking": {"uri": None},
    }
    with pytest.raises(ClientError, match=message):
        run(parse(config))
