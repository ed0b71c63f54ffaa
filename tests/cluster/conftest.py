"""A laptop and three hosts, as a user has them after filling in clusters/local.yaml."""

import tempfile
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, missing

YAML = "~/fedsmu_ray/clusters/local.yaml"


@pytest.fixture(scope="session")
def hosts():
    """Hosts h1, h2, h3 and h4, and `lap`, whose clusters/local.yaml names the first three."""
    lacking = missing()
    if lacking:
        pytest.skip(f"hosts of our own need {lacking}")
    with tempfile.TemporaryDirectory(prefix="fedsmu-hosts-") as folder:
        made = Hosts(Path(folder), ["h1", "h2", "h3", "h4", "lap"])
        try:
            made.copy_checkout("lap")
            fill_in(made)
            yield made
        finally:
            made.close()


def fill_in(hosts):
    """What the README says to do on the laptop, once."""
    head, *workers = (hosts.address[name] for name in ("h1", "h2", "h3"))
    edits = {
        "HEAD_ADDRESS": head,
        "\\[WORKER_ADDRESS, WORKER_ADDRESS\\]": f"[{', '.join(workers)}]",
        "USER ": "root ",
        "fedsmu_results": "volume",  # where a user has put them
    }
    sed = "; ".join(f"s/{old}/{new}/" for old, new in edits.items())
    hosts.on("lap", f"sed -i '{sed}' {YAML}")
    # Hosts without a network can have no other versions than this environment's.
    hosts.on("lap", "pip list --format=freeze | grep -v fedsmu > fedsmu_ray/constraints.txt")
    hosts.on("lap", "cd fedsmu_ray && pip install -q -e '.[cluster]' -c constraints.txt")
    hosts.on("lap", "ray get-auth-token --generate")


@pytest.fixture(scope="session")
def cluster(hosts):
    """The hosts with Ray on h1 (head), h2 and h3, brought up by hand from the laptop."""
    hosts.on("lap", "cd fedsmu_ray && ray up -y clusters/local.yaml", timeout=300)
    return hosts
