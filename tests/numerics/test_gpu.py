"""What a process sets before it trains on a GPU, and the GPUs that are refused."""

import pytest
import torch

from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.numerics import gpu
from tests.helpers import card as cards
from tests.helpers.card import card

KINDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


@pytest.mark.parametrize(
    "precision, products", [("float32", "ieee"), ("bfloat16", "ieee"), ("tf32", "tf32")]
)
def test_precision_of_every_kind_of_product(precision, products):
    with card():
        gpu.prepare(1.0, precision)
        assert [kind.fp32_precision for kind in KINDS] == [products] * 3
        # Code of users' models may still read the older switches, as cudnn.flags() does.
        switches = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        assert switches == (precision == "tf32",) * 2
        with torch.backends.cudnn.flags(enabled=False):
            pass
        assert torch.are_deterministic_algorithms_enabled()


def test_memory_is_limited_to_the_share_without_the_context():
    with card() as used:
        gpu.prepare(0.25, "float32")
        assert 0.25 - used.memory_fraction == pytest.approx(gpu.CONTEXT_BYTES / cards.MEMORY)
        with pytest.raises(ExecutionError, match=r"gpus_per_actor = 0.001: that is 82 MB .* 0.019"):
            gpu.prepare(0.001, "float32")
        gpu.prepare(1.0, "float32")
        assert used.memory_fraction == 1


@pytest.mark.parametrize(
    "built, words",
    [("13.0", "finds no GPU .*CUDA_VISIBLE_DEVICES is 3.*nvidia-smi"), (None, "for the CPU only")],
)
def test_no_gpu_is_an_error_with_a_cure(built, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ExecutionError, match=f"compute.gpus_per_actor = 0.5: .*{words}"):
        gpu.prepare(0.5, "float32")


def test_slices_of_a_card_have_to_be_named(monkeypatch):
    with card() as used:
        used.name = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        with pytest.raises(ExecutionError, match="first slice; start Ray with the slices by name"):
            gpu.prepare(0.5, "float32")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234, MIG-5678")
        assert gpu.prepare(0.5, "float32").type == "cuda"


@pytest.mark.parametrize(
    "error, broken",
    [
        (torch.AcceleratorError("device-side assert triggered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("expected m1 and m2 to have the same dtype"), False),
        (ValueError("CUDA error: said by a user's code"), False),
    ],
)
def test_errors_after_which_a_process_cannot_use_its_gpu(error, broken):
    assert gpu.is_broken(error) == broken


def test_copies_do_not_wait_or_wait_once():
    x, cuda = torch.arange(3.0), torch.device("cuda")
    with card() as used:
        one, two = gpu.upload(x, cuda), gpu.upload(x, cuda)
        x.fill_(7)  # at once: the copies are of what it was
        assert not used.waits and used.to_card == 24
        found = gpu.download([one + 1, two * 2])
        assert [t.tolist() for t in found] == [[1, 2, 3], [0, 2, 4]]
        assert used.waits.total() == 1 and used.to_host == 24
    assert gpu.upload(x, torch.device("cpu")) is x and gpu.download([x])[0] is x
