"""A cluster of hosts of one's own with Ray's own commands, typed on a laptop and on the head."""

import re
import subprocess
import time

import pytest

pytestmark = pytest.mark.cluster

YAML = "~/fedsmu_ray/clusters/local.yaml"
# A sweep of many rounds; `ray exec` types it on the head.
LONG = "cd fedsmu_ray && python -m fedsmu_ray.tune --address auto federation.rounds=100000"
SILENT = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
RUNS = """
import mlflow, os
client = mlflow.MlflowClient(f"sqlite:///{os.environ['FEDSMU_RESULTS']}/mlflow.db")
ids = [e.experiment_id for e in client.search_experiments()]
print("runs:", *sorted(run.info.status for run in client.search_runs(ids)))
"""


def nodes(hosts):
    status = hosts.on("lap", f'ray exec {YAML} "ray status" 2>/dev/null')
    return int(re.search(r"(\d+) local.cluster.node", status).group(1))


def runs(hosts):
    """The status of each tracked run on the head."""
    output = hosts.on("h1", f"python -W ignore - <<'END'\n{RUNS}\nEND")
    return output.split("runs:")[1].split()


def wait(hosts, condition, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition(hosts):
        assert time.monotonic() < deadline, condition.__name__
        time.sleep(1)


def test_all_hosts_join(cluster):
    wait(cluster, lambda hosts: nodes(hosts) == 3)


def test_status_and_jobs_on_the_head_need_no_further_words(cluster):
    assert "local.cluster.node" in cluster.on("h1", "ray status")
    submit = "ray job submit --working-dir . -- python -m fedsmu_ray.train federation.rounds=3"
    output = cluster.on("h1", f"cd fedsmu_ray && {submit}")
    assert "succeeded" in output and "round" in output
    assert "FINISHED" in runs(cluster)


def test_a_second_up_keeps_the_database_of_the_head(cluster):
    before = runs(cluster)
    cluster.on("lap", "cd fedsmu_ray && touch mlflow.db && mkdir -p fedsmu_runs/mine")
    cluster.on("lap", f"ray up -y --no-restart {YAML}", timeout=300)
    assert runs(cluster) == before
    assert "mlflow.db" not in cluster.on("h1", "ls fedsmu_ray")


def test_a_sweep_ends_with_the_terminal_in_which_it_was_typed(cluster):
    terminal = cluster.start("lap", f'exec ray exec {YAML} "{LONG}"', **SILENT)
    wait(cluster, lambda hosts: "RUNNING" in runs(hosts))
    cluster.on("lap", "pkill -9 ssh")
    terminal.wait()
    wait(cluster, lambda hosts: "RUNNING" not in runs(hosts), timeout=60)
    assert "KILLED" in runs(cluster)
