"""Processes that are gone, and those of which that is not known."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from fedsmu_ray.processes import identity

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="needs Linux")

TELL = "from fedsmu_ray.processes import identity; print(identity.this_process().text())"


def test_a_process_that_has_ended_is_gone():
    done = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True)
    ended = identity.parse(done.stdout)
    assert ended.pid != os.getpid() and identity.is_gone(ended)


def test_a_living_process_is_not_gone_and_a_dead_one_that_nobody_has_collected_is():
    command = [sys.executable, "-c", TELL.replace("print(", "import sys; print(") + ";input()"]
    command[2] = command[2].replace(".text())", ".text(), flush=True)")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        other = identity.parse(process.stdout.readline())
        assert other.pid == process.pid and not identity.is_gone(other)
        assert identity.is_gone(replace(other, started="1"))  # the id belonged to another one
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identity.is_gone(other)


def test_what_is_not_known_is_not_gone():
    here = identity.this_process()
    assert not identity.is_gone(here)
    ended = replace(here, started="1")
    assert identity.is_gone(ended)
    for elsewhere in ({"boot": "another"}, {"namespace": "pid:[1]"}):
        container = replace(ended, **elsewhere, host="another")
        assert not identity.is_gone(container)


def test_a_process_before_a_reboot_of_its_host_is_gone(monkeypatch):
    here = replace(identity.this_process(), namespace=identity._HOST_NAMESPACE, machine="0" * 32)
    monkeypatch.setattr(identity, "this_process", lambda: here)
    assert identity.is_gone(replace(here, boot="before"))
    assert not identity.is_gone(replace(here, boot="before", host="another"))
    assert not identity.is_gone(replace(here, boot="before", machine="1" * 32))
    in_container = replace(here, namespace="pid:[1]")
    assert not identity.is_gone(replace(in_container, boot="before"))


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", '{"pid": 3}', "vm:3"])
def test_other_texts_stand_for_no_process(text):
    assert identity.parse(text) is None
    here = identity.this_process()
    assert identity.parse(here.text()) == here
    assert identity.parse(replace(here, pid=-1).text()) is None
