"""Where a result comes from: real working copies, versions, the processor."""

import platform
import subprocess

import ray
import torch

import fedsmu_ray
from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.experiment.provenance import git_commit, provenance


def git(folder, *arguments):
    own = ["-c", "user.name=me", "-c", "user.email=me@host"]
    done = subprocess.run(
        ["git", *own, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_the_working_copy(tmp_path, monkeypatch):
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    copy.mkdir(), elsewhere.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(elsewhere)
    assert git_commit() is None
    git(copy, "init")
    (copy / "file").write_text("1")
    git(copy, "add", "file")
    git(copy, "commit", "-m", "one")
    git(copy, "tag", "v1")
    monkeypatch.chdir(copy)
    commit = git(copy, "rev-parse", "HEAD")
    (copy / "new").write_text("unknown to git")
    assert git_commit() == commit
    (copy / "file").write_text("2")
    assert git_commit() == f"{commit}-dirty"
    assert provenance(ComputeConfig())["git.commit"] == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_commit() is None and "git.commit" not in provenance(ComputeConfig())


def test_versions_and_processor():
    tags = provenance(ComputeConfig())
    assert tags["version.python"] == platform.python_version()
    assert tags["version.torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert tags["version.ray"] == ray.__version__
    assert tags["version.fedsmu_ray"] == fedsmu_ray.__version__
    assert tags["fedsmu.device"] not in ("", "GPU")
    if not torch.cuda.is_available():
        assert provenance(ComputeConfig(gpus_per_actor=0.5))["fedsmu.device"] == "GPU"
