"""Nodes with GPUs that only Ray believes in: what fits, where it is placed, and what is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory, home):
    script = Path(__file__).with_name("gpu_nodes.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path_factory.mktemp("nodes"),
        text=True,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "said": done.stderr}


def test_a_card_has_no_more_actors_than_fit_it(found):
    """Four cards on two nodes: two actors of 0.4 on each, pinned by index or MIG slice."""
    cards = {each.split(" ", 1)[1] for each in found["fifths"]}
    assert cards == {"0", "1", "MIG-aaaa", "MIG-bbbb"} and list(found["fifths"].values()) == [2] * 4
    whole = sorted(sorted(each.split(" ", 1)[1].split(",")) for each in found["whole"])
    assert whole == [["0", "1"], ["MIG-aaaa", "MIG-bbbb"]]  # a third has no node


def test_what_can_never_fit_is_refused_with_the_numbers(found):
    three, nine, ten, _ = found["refusals"]
    assert three.startswith("one client actor needs 1 CPU, 3 GPUs on one node, and none has that: ")
    assert "(4 CPUs, 2 GPUs)" in three and "(1 CPU)" in three
    assert nine.startswith("compute.actors = 9: the cluster has room for 8 with 1 CPU, 0.5 GPUs")
    assert ten.startswith("compute.actors = 10: the cluster has room for 9 with 1 CPU each, on ")


def test_no_cuda_where_it_was_promised_names_the_host_and_the_process(found):
    message = found["refusals"][-1]
    assert message.startswith("client actor ") and os.uname().nodename in message
    assert ", process " in message and "compute.gpus_per_actor = 0.5: " in message


def test_the_server_actor_is_on_the_node_of_the_driver(found):
    assert found["server_is_here"]


def test_nodes_that_join_are_used_and_told_like_those_that_are_lost(found):
    assert found["grown"][-1] == 4, found
    assert "INFO node joined: " in found["said"] and "nodes now: 4" in found["said"]
    assert "WARNING node lost: " in found["said"] and "nodes left: 3" in found["said"]
