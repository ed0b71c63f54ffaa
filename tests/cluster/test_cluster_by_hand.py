"""`ray up clusters/local.yaml`, typed on a laptop."""

import re
import time

import pytest

pytestmark = pytest.mark.cluster


def nodes(hosts):
    status = hosts.on("lap", 'ray exec ~/fedsmu_ray/clusters/local.yaml "ray status" 2>/dev/null')
    return int(re.search(r"(\d+) local.cluster.node", status).group(1))


def test_all_hosts_join(cluster):
    deadline = time.monotonic() + 120
    while nodes(cluster) < 3:
        assert time.monotonic() < deadline, "hosts are missing"
