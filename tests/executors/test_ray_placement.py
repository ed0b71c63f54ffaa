"""What fits a cluster: per node and per card, before and after the autoscaler has grown it."""

import json
from math import inf

import pytest

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors import ray_placement
from fedsmu_ray.executors.base import actor_resources
from fedsmu_ray.executors.ray_nodes import HEAD, Node
from fedsmu_ray.executors.ray_placement import Growth, actors_on, check


@pytest.mark.parametrize(
    "has, cpus, gpus, fitting",
    [
        ({"CPU": 4}, 1, 0, 4),
        ({"CPU": 4}, 0.3, 0, 13),
        ({"CPU": 1}, 0.1, 0, 10),  # 1 // 0.1 is 9 in floats
        ({}, 1, 0, 0),
        ({"CPU": 8, "GPU": 2}, 1, 0.4, 4),  # 2 on each card, never 0.4 + 0.4 + 0.4
        ({"CPU": 8, "GPU": 2}, 1, 0.1, 8),
        ({"CPU": 80, "GPU": 2}, 1, 0.1, 20),
        ({"CPU": 80, "GPU": 3}, 1, 0.3334, 6),
        ({"CPU": 80, "GPU": 3}, 1, 0.3333, 9),
        ({"CPU": 80, "GPU": 3}, 1, 0.51, 3),
        ({"CPU": 8, "GPU": 3}, 1, 2, 1),
        ({"CPU": 1, "GPU": 3}, 1, 1, 1),
        ({"CPU": 8}, 1, 0.25, 0),
    ],
)
def test_actors_on_one_node(has, cpus, gpus, fitting):
    compute = ComputeConfig(cpus_per_actor=cpus, gpus_per_actor=gpus)
    assert actors_on(has, compute) == fitting


@pytest.fixture
def cluster(monkeypatch):
    """Have the cluster consist of these nodes, and what the autoscaler may bring."""

    def set_nodes(*resources, may=None):
        found = [Node(str(i), f"h{i + 1}", has) for i, has in enumerate(resources)]
        monkeypatch.setattr(ray_placement, "nodes", lambda: found)
        grown = may or (lambda compute: Growth(ray_placement.fitting_actors(compute)))
        monkeypatch.setattr(ray_placement, "growth", grown)

    return set_nodes


ONE_CARD = {"CPU": 4.0, "GPU": 1.0}


def test_an_actor_fits_one_node_not_their_sum(cluster):
    cluster(ONE_CARD, ONE_CARD)
    with pytest.raises(ExecutionError) as raised:
        check(ComputeConfig(gpus_per_actor=2))
    assert str(raised.value) == (
        "one client actor needs 1 CPU, 2 GPUs on one node, and none has that: h1 (4 CPUs, 1 GPU), "
        "h2 (4 CPUs, 1 GPU); lower compute.cpus_per_actor or compute.gpus_per_actor"
    )


def test_more_actors_than_fit_are_refused_with_the_number_that_does(cluster):
    cluster(ONE_CARD, ONE_CARD, {"CPU": 2.0})
    check(ComputeConfig(actors=4, gpus_per_actor=0.4))
    with pytest.raises(ExecutionError, match="compute.actors = 5: the cluster has room for 4 with"):
        check(ComputeConfig(actors=5, gpus_per_actor=0.4))
    check(ComputeConfig(actors=10))
    with pytest.raises(ExecutionError, match="room for 10 with 1 CPU each, on h1 .4 CPUs, 1 GPU"):
        check(ComputeConfig(actors=11))


def test_what_the_autoscaler_may_bring_is_not_refused(cluster):
    cluster({"CPU": 0.0}, may=lambda compute: Growth(8, "at most 2 workers"))
    assert check(ComputeConfig(actors=8)).most == 8
    with pytest.raises(ExecutionError, match="room for 8 .*; the autoscaler may have at most 2 w"):
        check(ComputeConfig(actors=9))


def promised(types, workers, gpus=0.0, now=0, alive=1, **provider):
    config = {
        "max_workers": workers,
        "head_node_type": "head",
        "provider": {"type": "aws", **provider},
        "available_node_types": {
            name: {"resources": has, **({"max_workers": most} if most is not None else {})}
            for name, (has, most) in types.items()
        },
    }
    config = json.loads(json.dumps(config))
    return ray_placement._promised(config, ComputeConfig(gpus_per_actor=gpus), now, alive)


def test_workers_are_counted_by_type_and_in_all():
    head, gpu, cpu = ({"CPU": 0}, 0), ({"CPU": 4, "GPU": 1}, 4), ({"CPU": 16}, None)
    assert promised({"head": head, "gpu": gpu}, 4).most == 16
    assert promised({"head": head, "gpu": gpu}, 2).most == 8
    assert promised({"head": head, "gpu": gpu, "cpu": cpu}, 5).most == 80
    assert promised({"head": head, "gpu": gpu, "cpu": cpu}, 5, gpus=0.5).most == 8
    assert promised({"head": ({"CPU": 2}, 0), "gpu": gpu}, 1).most == 6
    assert promised({"head": head, "gpu": gpu}, 4, gpus=2).most == 0
    assert promised({"head": head, "gpu": gpu}, 1, now=9).most == 9  # nodes added by hand
    what = promised({"head": head, "gpu": gpu}, 4).what
    assert what == "at most 4 workers: 4 of type gpu (4 CPUs, 1 GPU)"


def test_hosts_of_ones_own_have_unknown_resources_until_they_have_joined():
    hosts = {"head": ({}, 2)}
    assert promised(hosts, 2, alive=2, type="local") == Growth(inf, "1 more hosts")
    assert promised(hosts, 2, now=6, alive=3, type="local") == Growth(6)


def test_nodes_of_one_host_have_names_of_their_own(ray_cluster):
    found = ray_placement.nodes()
    assert [node.is_head for node in found] == [True] and HEAD in found[0].resources
    assert ray_placement.growth(ComputeConfig()) == Growth(
        ray_placement.fitting_actors(ComputeConfig())
    )


@pytest.mark.parametrize(
    "share, reserved", [(0.4, 0.5), (0.25, 0.25), (0.3, 0.3333), (0.34, 0.5), (0.6, 1), (2, 2)]
)
def test_a_share_reserves_what_nobody_else_could_use(share, reserved):
    """Ray would send a third actor of 0.4 to a node that has 0.2 free on each of two cards."""
    needs = actor_resources(ComputeConfig(gpus_per_actor=share))
    assert needs == {"CPU": 1.0, "GPU": pytest.approx(reserved, abs=1e-9)}
    assert actor_resources(ComputeConfig()) == {"CPU": 1.0}
