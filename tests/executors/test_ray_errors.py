"""What is made of exceptions in the processes of Ray."""

import pytest

from fedsmu_ray.errors import BrokenGPUError
from fedsmu_ray.executors.ray_errors import reporting_broken_gpu


@pytest.mark.parametrize(
    "raised, seen",
    [
        (RuntimeError("CUDA error: unspecified launch failure"), BrokenGPUError),
        (RuntimeError("CUDA out of memory"), RuntimeError),
        (KeyError("x"), KeyError),
    ],
)
def test_a_broken_gpu_is_told_apart_from_other_errors(raised, seen):
    @reporting_broken_gpu
    def call(twice):
        if twice:
            return 2 * twice
        raise raised

    assert call(2) == 4
    with pytest.raises(seen) as caught:
        call(0)
    assert type(caught.value) is seen and str(raised) == str(caught.value)
