"""Augmentation by flips and shifted crops: its distribution and its random keys.

The draws depend only on (seed, round, client, step, slot).
"""

import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.augment import flip_and_crop
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import parameters, streams


def keys(*clients):
    return streams.keys(0, "augmentation", 1, torch.tensor(clients))


def candidates(image, pad):
    """Every outcome for one image [C, H, W]: (mirrored, down, right) -> augmented image.

    Computed by plain padding and slicing.
    """
    height, width = image.shape[1:]
    out = {}
    for mirrored in (False, True):
        padded = torch.nn.functional.pad(image.flip(-1) if mirrored else image, (pad,) * 4)
        for down in range(2 * pad + 1):
            for right in range(2 * pad + 1):
                out[mirrored, down, right] = padded[:, down : down + height, right : right + width]
    return out


def test_outcomes_are_flips_and_crops_with_the_expected_frequencies():
    image = torch.randn(3, 12, 10, generator=torch.Generator().manual_seed(0))
    n = 3000
    got = flip_and_crop(image.expand(1, 1, n, 3, 12, 10), keys(5), 3)[0, 0]
    table = candidates(image, 4)
    which = torch.full((n,), -1)
    for i, value in enumerate(table.values()):
        which[(got == value).flatten(1).all(1)] = i
    assert (which >= 0).all()
    outcome = torch.tensor(list(table))[which]
    assert abs(float(outcome[:, 0].double().mean()) - 0.5) < 5 * (0.25 / n) ** 0.5
    center = float(((outcome[:, 1] == 4) & (outcome[:, 2] == 4)).double().mean())
    expected = 0.5 + 0.5 / 81
    assert abs(center - expected) < 5 * (expected * (1 - expected) / n) ** 0.5
    moved = outcome[(outcome[:, 1] != 4) | (outcome[:, 2] != 4)]
    for axis in (1, 2):  # of the shifted images, every offset except the center is equally likely
        share = torch.bincount(moved[:, axis], minlength=9).double() / len(moved)
        assert (abs(share[[0, 1, 2, 3, 5, 6, 7, 8]] - 9 / 80) < 5 * (0.1 / len(moved)) ** 0.5).all()


def test_large_images_are_shifted_further():
    image = torch.ones(1, 1, 400, 1, 64, 64)
    zero_rows = (flip_and_crop(image, keys(1), 0)[0, 0, :, 0] == 0).all(-1).sum(-1)
    assert int(zero_rows.max()) == 8


def test_draws_belong_to_seed_round_client_step_and_slot():
    x = torch.randn(3, 2, 20, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    together = flip_and_crop(x, keys(4, 8, 2), 6)
    assert torch.equal(together[1:2], flip_and_crop(x[1:2], keys(8), 6))
    assert torch.equal(together[:, :, :7], flip_and_crop(x[:, :, :7], keys(4, 8, 2), 6))
    assert torch.equal(together[:, 1:], flip_and_crop(x[:, 1:], keys(4, 8, 2), 7))
    assert not torch.equal(together, flip_and_crop(x, keys(4, 8, 2), 7))
    assert not torch.equal(together, flip_and_crop(x, keys(4, 8, 3), 6))
    assert torch.equal(
        x, torch.randn(3, 2, 20, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    )


def test_training_uses_augmentation_and_does_not_depend_on_the_grouping():
    def trained(augment, clients):
        problem = Problem.of(
            parse(
                {
                    "data": {"clients": 20, "augment": augment},
                    "local": {"epochs": 1, "batch_size": 20},
                }
            )
        )
        data = DeviceData(problem.dataset, torch.device("cpu"))
        trainer = Trainer(
            problem.module(),
            data,
            problem.partition,
            problem.config.local,
            0,
            problem.config.data.augment,
        )
        solver = GroupSolver(trainer, 2, torch.tensor(clients), problem.setting)
        return solver.train(parameters.flatten(trainer.module))

    together = trained(True, [3, 9])
    torch.testing.assert_close(together[1], trained(True, [9])[0], rtol=1e-4, atol=2e-6)
    assert not torch.allclose(together, trained(False, [3, 9]), rtol=1e-4, atol=2e-6)


def test_only_images_are_augmented():
    dataset = "import:tests.helpers.dataset_files:user_loader_of_tokens"
    tokens = {
        "data": {"dataset": dataset, "clients": 2, "augment": True},
        "federation": {"cohort": 1},
        "model": {"name": "char_lstm"},
    }
    with pytest.raises(ConfigError, match="data.augment = true: .* has no uint8 images"):
        Problem.of(parse(tokens))
