"""Blocks whose numbers do not depend on what the process has done before."""

import random

import numpy as np
import pytest
import torch

from fedsmu_ray.numerics import isolation
from fedsmu_ray.numerics.isolation import generator_states, isolated, seed_generators


def draws():
    return random.random(), np.random.rand(), float(torch.rand(()))


def settings():
    """What `isolated` sets."""
    probe = torch.tensor(1e-40, dtype=torch.float32, device="cpu")
    return (
        [getattr(owner, name) for owner, name, _ in isolation._SETTINGS],
        torch.get_deterministic_debug_mode(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        float(probe * 1) == 0,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        np.geterr(),
    )


def test_draws_depend_on_the_seed_and_the_caller_keeps_its_generators():
    before = generator_states()
    with isolated(7):
        first = draws()
        seed_generators(8)
    assert generator_states() == before
    draws()
    with isolated(7):
        assert draws() == first
    with isolated(8):
        assert draws() != first
    with pytest.raises(KeyError), isolated(7):
        raise KeyError
    assert generator_states() != before  # one draw further
    for seed in (0, -1, -(2**63), 2**63 - 1):
        seed_generators(seed)
        one = draws()
        seed_generators(seed)
        assert draws() == one and len(set(one)) == 3


def test_the_state_of_each_generator_counts():
    for draw in (random.random, np.random.rand, lambda: torch.rand(())):
        before = generator_states()
        draw()
        assert generator_states() != before


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_settings_of_the_caller_are_those_of_a_new_process_inside_and_kept_outside():
    fresh = settings()
    assert fresh[0] == [value for _, _, value in isolation._SETTINGS]
    with isolated(0):  # restores what this test sets
        torch.set_float32_matmul_precision("medium")
        torch.backends.fp32_precision = "tf32"
        torch.backends.mkldnn.enabled = False
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_flush_denormal(True)
        device, modes = torch.device("cuda:0"), (torch.autocast("cpu"), torch.inference_mode())
        with np.errstate(all="raise"), device, modes[0], modes[1]:
            changed = settings()
            assert all(one != other for one, other in zip(fresh, changed) if one is not True)
            with isolated(0):
                assert settings() == fresh
            assert settings() == changed
    assert settings() == fresh


@pytest.mark.parametrize("tf32", [False, True])
def test_switches_of_tf32_can_be_read_inside_and_outside(tf32):
    """PyTorch raises where they say something else than the settings that replaced them."""
    kinds = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    with isolated(0):
        for owner in switches:
            owner.allow_tf32 = tf32
        for kind in kinds:
            kind.fp32_precision = "tf32" if tf32 else "ieee"
        with isolated(0):
            assert [owner.allow_tf32 for owner in switches] == [False, True]
        assert [owner.allow_tf32 for owner in switches] == [tf32, tf32]
        assert {kind.fp32_precision for kind in kinds} == {"tf32" if tf32 else "ieee"}
    assert [owner.allow_tf32 for owner in switches] == [False, True]


def test_settings_that_contradict_a_switch_are_kept():
    with isolated(0):
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # allow_tf32 can no longer be read
        with isolated(0):
            assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
