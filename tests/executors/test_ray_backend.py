"""Opening the executor on Ray. The rest is tested with the executor itself."""

import logging

from fedsmu_ray.executors.ray_backend import warn_of_idle_gpus


def test_idle_gpus_are_named_with_the_cure(caplog):
    warn_of_idle_gpus(groups=4, size=25, actors=4)
    assert not caplog.records
    warn_of_idle_gpus(groups=1, size=100, actors=4)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "GPUs stay idle: they have room for 4 client actors, but a round has only 1 client group, "
        "of up to 100 clients; set compute.clients_per_task to less than 100"
    )
