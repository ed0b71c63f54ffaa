"""Sweeps on three hosts, typed on a laptop that has the only copy of the recipe and its module.

The tests follow each other on one cluster: hosts are lost, come back and are added.
"""

import functools
import itertools
import json
import re
import subprocess
import time

import pytest

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.experiment.run import run

pytestmark = pytest.mark.cluster

YAML = "~/fedsmu_ray/clusters/local.yaml"
NUMBERS = itertools.count()
MODULE = """
from torch import nn

def model(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""
# One trial at a time on a host, which has two CPUs.
RECIPE = """
name: story
data: {dataset: digits, clients: 20}
model: {name: "import:mine:model"}
algorithm: {name: fedsmu}
local: {epochs: 1, batch_size: 20}
federation: {rounds: 60, cohort: 6, eval_every: 20}
compute: {actors: 1, cpus_per_actor: 2}
tune:
  space: {algorithm.beta1: {grid: [0.5, 0.9, 0.95]}}
"""


@pytest.fixture(scope="session")
def project(cluster):
    """The folder ~/project of the laptop, with a recipe and a module that no other host has."""
    write = "mkdir -p ~/project && cat > ~/project/"
    for name, text in (("story.yaml", RECIPE), ("mine.py", MODULE)):
        shell = cluster.start("lap", f"{write}{name}", stdin=subprocess.PIPE)
        shell.communicate(text)
    return cluster


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """The model of each trial on one machine, by beta1, for so many rounds."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "story.yaml").write_text(RECIPE)
    (folder / "mine.py").write_text(MODULE)

    def hashes(rounds, betas=(0.5, 0.9, 0.95)):
        with pytest.MonkeyPatch.context() as patched:
            patched.syspath_prepend(str(folder))
            alone = {"compute.executor": "inline", "tracking.uri": None}
            return {
                beta1: run(
                    load_config(
                        folder / "story.yaml",
                        {**alone, "algorithm.beta1": beta1, "federation.rounds": rounds},
                    )
                ).summary["model_sha256"]
                for beta1 in betas
            }

    return hashes


def trials(hosts, job):
    """What the fetched results of a job say of its trials, by beta1."""
    lines = hosts.on("lap", f"cat ~/project/fedsmu_results/{job}/story-*/trials.jsonl")
    events = [json.loads(line) for line in lines.splitlines()]
    return {e["params"]["algorithm.beta1"]: e for e in events if e["event"] == "end"}


def wait_until(holds, said, timeout=120):
    """Wait until something holds; said: what there is instead, for the failure."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, said()
        time.sleep(1)


def start(hosts, command):
    """Start a command on the laptop; returns its process and a function that reads its output."""
    file = f"/tmp/output-{next(NUMBERS)}"
    line = f"cd project && exec {command} > {file} 2>&1"
    process = hosts.start("lap", line, stdin=subprocess.DEVNULL)
    return process, lambda: hosts.on("lap", f"cat {file} 2>/dev/null || true")


def wait_for(pattern, read):
    wait_until(lambda: re.search(pattern, read()), read)


def job_of(output):
    return output.split("\njob ")[1].split(":")[0]


def log_of(hosts, job):
    """The log of a job, on the head."""
    file = f"/tmp/ray/session_latest/logs/job-driver-{job}.log"
    return hosts.on("h1", f"cat {file} 2>/dev/null || true")


def test_one_command_runs_a_sweep_on_all_hosts(project, expected):
    output = project.on("lap", f"cd project && fedsmu cluster run {YAML} story.yaml", timeout=300)
    ended = trials(project, job_of(output))
    assert {beta1: e["model_sha256"] for beta1, e in ended.items()} == expected(60), output
    assert {node for e in ended.values() for node in e["nodes"]} == {"h1", "h2", "h3"}, output
    assert "trials by node: h1: " in output and "Traceback" not in output


def test_a_job_that_cannot_start_says_why_and_has_no_results(project):
    output = project.on(
        "lap",
        f"cd project && fedsmu cluster run {YAML} story.yaml compute.actors=2 local.lr=-1",
        fails=True,
    )
    assert "local.lr = -1" in output and "no results: " in output and "rsync" not in output


def add_by_hand(hosts, name):
    """What the README says of a host that joins a running cluster."""
    there = f"root@{hosts.address[name]}"
    ssh = "-o StrictHostKeyChecking=no"
    hosts.on("lap", f"rsync -a --exclude .git -e 'ssh {ssh}' fedsmu_ray .ray {there}:")
    path = "export PATH=~/fedsmu_env/bin:$PATH RAY_AUTH_MODE=token"
    install = "pip install -q -e 'fedsmu_ray[cluster]' -c fedsmu_ray/constraints.txt"
    start = f"ray start --address={hosts.address['h1']}:6379"
    hosts.on("lap", f'ssh {ssh} {there} "{path}; {install} && {start}"')


def test_hosts_are_lost_and_added_while_the_laptop_is_away(project, expected):
    """A host joins, a raylet is killed, another host loses its network: the same models."""
    betas = [0.5, 0.9, 0.95, 0.99]
    long = "federation.rounds=1200 federation.eval_every=50"
    four = f"'tune.space.algorithm.beta1={{grid: {betas}}}'"
    watched, output = start(project, f"fedsmu cluster run {YAML} story.yaml {long} {four}")
    wait_for("trials done; running: (.*round){3}", output)
    job = job_of(output())
    project.on("lap", "pkill -9 -f 'fedsmu cluster run'")  # as when the lid is closed
    watched.wait(timeout=60)
    add_by_hand(project, "h4")
    log = functools.partial(log_of, project, job)
    wait_for("INFO node joined: h4 ", log)
    wait_for("trials done; running: (.*round){4}", log)  # what waited for resources runs there
    project.on("h2", "pkill -9 raylet")
    project.link("h3", "down")
    try:
        output = project.on("lap", f"cd project && fedsmu cluster follow {YAML}", timeout=600)
    finally:
        project.link("h3", "up")
    assert "WARNING node lost: h2 " in output and "WARNING node lost: h3 " in output, output
    assert output.count("the trial's process was lost (on ") == 2, output
    ended = trials(project, job)
    assert {beta1: e["model_sha256"] for beta1, e in ended.items()} == expected(1200, betas), output
    assert "h4" in {node for e in ended.values() for node in e["nodes"]}, output


def test_a_job_is_followed_over_a_cut_stopped_fetched_and_resumed(project):
    """Ctrl-C ends the following only; a stopped job ends in order, and another one continues it."""
    train = f"fedsmu cluster run {YAML} story.yaml --train checkpoint.every=10"
    ran, output = start(project, f"{train} federation.rounds=1000000")
    wait_for("\nround ", output)
    project.on("lap", "pkill -INT -f 'fedsmu cluster run'")
    assert ran.wait(timeout=60) == 130, output()
    job = job_of(output())
    assert "not following any more; the job goes on" in output(), output()
    assert "Traceback" not in output(), output()

    followed, output = start(project, f"fedsmu cluster follow {YAML}")
    wait_for("\nround ", output)
    project.link("lap", "down")
    try:
        wait_for("the connection to the head is lost", output)
    finally:
        project.link("lap", "up")
    wait_for("connected again", output)
    project.on("lap", f"fedsmu cluster stop {YAML}")
    assert followed.wait(timeout=120) == 130, output()
    told = ("to resume from the last checkpoint: ", "the job was stopped", "\nresults: ")
    assert all(line in output() for line in told), output()
    assert output().count("Running entrypoint") == 1 and "Traceback" not in output(), output()

    project.on("lap", f"cd project && rm -r fedsmu_results && fedsmu cluster fetch {YAML} {job}")
    listed = project.on("lap", f"ls project/fedsmu_results/{job}/story-*")
    done = max(map(int, re.findall(r"server-(\d+)-", listed)))
    resume = f"{train} federation.rounds={done + 20} --resume {job}"
    output = project.on("lap", f"cd project && {resume}", timeout=200)
    assert (
        f", goes on after round {done}; " in output and f"results: fedsmu_results/{job}/" in output
    ), output


def test_mlflow_is_reached_through_a_tunnel_with_its_password(project):
    ui = project.start("lap", f"exec fedsmu cluster ui {YAML}", stdout=subprocess.PIPE)
    line = ui.stdout.readline()
    place, password = re.search(r"(http://\S+:\d+)/.* password (\S+);", line).groups()
    curl = "curl -s -w '%{http_code}'"
    found = f"{place}/api/2.0/mlflow/experiments/get-by-name?experiment_name=fedsmu"
    assert project.on("lap", f"{curl} '{found}'").endswith("401")
    answer = project.on("lap", f"{curl} -u admin:{password} '{found}'")
    assert answer.endswith("200") and '"name": "fedsmu"' in answer, answer
    assert project.on("h2", "curl -s --max-time 5 http://h1:5000/health", fails=True) == ""
    project.on("lap", "pkill -INT -f 'fedsmu cluster ui'")
    ui.communicate()


def test_down_leaves_nothing(project):
    status = functools.partial(project.on, "h1", "ray status")
    wait_until(lambda: "3 local.cluster.node" in status(), status)
    output = project.on("lap", f"fedsmu cluster down {YAML}", timeout=200)
    ours = "ps -eo args | grep -E 'raylet|gcs_server|ray::|mlflow' | grep -v grep || true"

    def left():
        return "".join(project.on(name, ours) for name in ("h1", "h2", "h3"))

    wait_until(lambda: not left(), lambda: left() + output)
