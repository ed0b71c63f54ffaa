"""What is found out about a user's module before it is trained."""

import pytest
import torch

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models import probes
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.isolation import generator_states, isolated
from tests.helpers.random_models import KEEP_APART, MIXES, NOISE, fixed, mixing, noisy


def inputs():
    return torch.randn(probes.SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def builder(function, *arguments, **options):
    def build():
        with isolated(3):
            return function((1, 8, 8), 10, *arguments, **options)

    return build


@pytest.mark.parametrize("place", ["buffer", "other buffer", "parameter", "attribute"])
def test_what_is_not_drawn_from_the_seed_is_refused(place):
    for draw in ("numpy", "python", "process"):
        probes.check_repeatable(builder(fixed, draw, place), inputs(), "model.name = m")
    differs = "computes different outputs" if place == "attribute" else "differs in w"
    message = f"model.name = m: built twice from the same seed, it {differs}.*default_rng"
    with pytest.raises(ConfigError, match=message):
        probes.check_repeatable(builder(fixed, "entropy", place), inputs(), "model.name = m")


@pytest.mark.parametrize("how", NOISE)
def test_a_module_must_not_remember(how):
    before = generator_states()
    if how in ("own generator", "counter", "kept"):
        with pytest.raises(ConfigError, match="model.name = m: its outputs depend on what it has"):
            probes.check_repeatable(builder(noisy, how), inputs(), "model.name = m")
    else:
        probes.check_repeatable(builder(noisy, how), inputs(), "model.name = m")
    assert generator_states() == before


@pytest.mark.parametrize("how", MIXES)
def test_modules_that_mix_the_samples_of_a_batch_are_found(how):
    for zeros in (False, True):  # of the last layer, when training begins
        module = builder(mixing, how, zeros)()
        found = probes.rows_are_independent(module, inputs(), "model.name = m")
        assert found == (how in KEEP_APART)


def test_tokens_and_single_samples_are_tried_as_they_are():
    tokens = torch.arange(probes.SAMPLES * 5).reshape(-1, 5) % 7
    embedding = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Flatten())
    assert probes.rows_are_independent(embedding, tokens, "model.name = m")
    mixed = torch.nn.Sequential(embedding, torch.nn.BatchNorm1d(20, track_running_stats=False))
    assert not probes.rows_are_independent(mixed, tokens, "model.name = m")


def test_outputs_may_be_log_probabilities():
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.LogSoftmax(-1)
    assert probes.rows_are_independent(torch.nn.Sequential(*layers), inputs(), "model.name = m")


def test_a_batch_that_the_module_cannot_take_is_reported():
    with pytest.raises(
        ConfigError, match="model.name = m: for a batch of 4 in training, it raised"
    ):
        probes.rows_are_independent(torch.nn.Linear(3, 2), inputs(), "model.name = m")


def test_other_processes_get_the_constants_and_notice_another_model():
    build = builder(fixed, "numpy", "buffer")
    probed = probes.probe(build, inputs(), "m")
    other = builder(fixed, "python", "buffer")()
    assert not torch.equal(other.w, build().w)
    assert torch.equal(probed.restored(other, "m").w, build().w)
    other.layer.weight.data += 1
    with pytest.raises(ConfigError, match="model.name = m: built in another process"):
        probed.restored(other, "m")
    frozen = builder(fixed, "numpy", "parameter")()
    assert torch.equal(probes.probe(build, inputs(), "m").constants["w"], frozen.w)
    with pytest.raises(
        ConfigError, match=r"model.name = m: built in another .*are \[\], not \['w'\]"
    ):
        probed.restored(torch.nn.Linear(64, 10), "m")
    assert set(parameters.constants(frozen)) == {"w"}
