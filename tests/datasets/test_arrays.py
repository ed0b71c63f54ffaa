"""Data sets from arrays: arrays that do not fit together are reported by name."""

import numpy as np
import pandas as pd
import pytest
import torch

from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import small_arrays

NO_MATCH = "own.npz: train_x .24, 3, 8, 8. and train_y .23.* must hold the same number"
SHAPES = r"training samples are \[3, 8, 8\] .* test samples \[3, 9, 9\]"
CLIENTS = "clients .5. must hold one whole number for every training sample"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_y": np.arange(23) % 4}, NO_MATCH),
        ({"test_y": np.full(8, 4)}, r"test_y\[0\] = 4: no training sample has this label"),
        ({"train_y": np.linspace(0, 1, 24)}, r"train_y\[1\] = 0.04.*: it must hold whole numbers"),
        ({"test_x": np.zeros((8, 3, 9, 9), np.uint8)}, SHAPES),
        ({"train_x": np.full((24, 5), np.nan), "test_x": np.zeros((8, 5))}, "NaN or infinite"),
        ({"train_x": np.array(["a"] * 24)}, "train_x .24. of type <U1: text must be encoded"),
        ({"clients": np.arange(5)}, CLIENTS),
        ({"colour": np.zeros(1)}, "colour unknown"),
        ({"mean": [0.5], "std": [1.0]}, r"mean .per channel. = \[0.5\]: expected 3 finite numbers"),
    ],
)
def test_arrays_that_do_not_fit(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_arrays("own", {**small_arrays(), **change}, "data.root: own.npz")
    assert all(p.startswith("data.root: own.npz") for p in caught.value.problems)


def test_missing_arrays_are_listed():
    arrays = small_arrays()
    del arrays["train_y"], arrays["test_x"]
    with pytest.raises(ConfigError, match="own: train_y, test_x missing .*are required"):
        from_arrays("own", arrays, "own")


def arrays(**changes):
    return from_arrays("own", {**small_arrays(), **changes}, "own")


RAW = small_arrays()
FLOATS = {"train_x": RAW["train_x"] / 255, "test_x": RAW["test_x"] / 255}
SPARE = {"train_x": np.arange(24)[:, None] % 7, "test_x": np.arange(8)[:, None] % 7}


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a.astype(object) if a.ndim == 1 else a,
        lambda a: a.tolist() if a.ndim == 1 else a,
        lambda a: a.astype(np.float64) if a.ndim == 1 else a,
        lambda a: pd.Series(a, dtype="category") if a.ndim == 1 else a,
        lambda a: torch.from_numpy(a),
        lambda a: list(torch.from_numpy(a)),
        lambda a: list(a),
    ],
)
def test_values_count_and_not_how_they_are_stored(convert):
    given = {key: convert(value) for key, value in RAW.items()}
    assert from_arrays("own", given, "own").digest() == arrays().digest()


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(np.float16),
        lambda a: a.astype(">f4"),
        lambda a: torch.from_numpy(a).to(torch.bfloat16),
        lambda a: torch.from_numpy(a).requires_grad_(),
        lambda a: a.tolist(),
    ],
)
def test_floats_become_float32(convert):
    x = {key: np.round(value * 4) / 4 for key, value in FLOATS.items()}  # exact in bfloat16
    data = arrays(**{key: convert(value) for key, value in x.items()})
    assert data.train_x.dtype == np.float32 and data.mean is None
    assert np.array_equal(data.train_x, x["train_x"])


def test_memory_mapped_and_read_only_arrays(tmp_path):
    np.save(tmp_path / "x.npy", RAW["train_x"])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = arrays(train_x=mapped)
    assert type(data.train_x) is np.ndarray and np.shares_memory(data.train_x, mapped)
    assert DeviceData(data, torch.device("cpu")).batch(torch.arange(3)[None])[0].shape[1] == 3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_x": RAW["train_x"].transpose(0, 2, 3, 1)}, r"train_x .*x.transpose\(0, 3, 1, 2\)"),
        ({"train_x": RAW["train_x"].astype(np.uint16)}, "train_x .* uint16: .*images to uint8"),
        ({"train_x": RAW["train_x"].tolist()}, "train_x .* int64: .*convert images to uint8"),
        ({"train_x": RAW["train_x"] > 9}, "train_x .* bool: convert it to float32"),
        ({"train_x": np.zeros(24)}, r"train_x \[24\] of type float64: .* x\[:, None\]"),
        ({"train_x": np.zeros((24, 0))}, "train_x is .24, 0.; a sample must hold"),
        ({"train_x": [[1.0], [1.0, 2.0]]}, "train_x is not an array: .*inhomogeneous.*one shape"),
        ({"train_x": (i for i in range(24))}, "train_x is of type generator"),
        ({"train_x": np.array([[1, None]] * 24)}, "train_x holds values of type NoneType, such as"),
        ({"train_x": np.zeros((24, 2), complex)}, "train_x holds values of type complex128"),
        ({"train_x": np.ma.masked_equal(np.eye(24), 1)}, "train_x is not an array: some .* masked"),
        ({"train_x": []}, "train_x"),
        (
            {**FLOATS, "test_x": FLOATS["test_x"] * 1e300},
            r"test_x holds NaN.*8 samples .*test_x\[0\]",
        ),
        (
            {"train_x": RAW["train_x"][:0], "train_y": []},
            "train_y is empty; there must be at least",
        ),
        (
            {"test_x": RAW["test_x"][:0], "test_y": []},
            "test_y is empty; there must be at least one",
        ),
        ({"test_x": RAW["test_x"] / 255}, r"training samples .*uint8. and test samples .*float32"),
        ({"train_y": np.eye(4)[RAW["train_y"]]}, r"train_y is \[24, 4\]; .* train_y.argmax\(1\)"),
        ({"train_y": RAW["train_y"][:, None]}, r"train_y is \[24, 1\]; .* train_y.reshape\(-1\)"),
        ({"mean": [0.5] * 3}, "mean and std must be given together"),
        (
            {"mean": [0.5] * 3, "std": [0.1, 0.1, np.nan]},
            "std .per channel. = .*: expected 3 finite",
        ),
        ({"mean": [0.5] * 3, "std": [0.1, 0.1, 0.0]}, "std = .* must be positive"),
        (
            {"mean": [125.3, 123.0, 113.9], "std": [63.0, 62.1, 66.7]},
            "mean = .125.3.* std = .63.0.* divided by scale = 255, so at most 1; .* give scale = 1",
        ),
        ({"mean": [0.5] * 3, "std": [63.0] * 3}, "mean = .0.5.* std = .63.0.* give scale = 1"),
        ({"mean": [-0.1] * 3, "std": [0.1] * 3}, "mean = .-0.1.* at most 1"),
        ({"mean": ["a"] * 3, "std": [0.1] * 3}, "mean .per channel. = .*expected 3 finite numbers"),
        ({"train_x": np.ones((24, 2)), "mean": [0], "std": [1]}, "mean is for images"),
        ({"scale": 0}, "scale = 0 must be positive"),
        ({"symbols": 7}, "symbols is for tokens"),
        ({**SPARE, "symbols": 5}, "train_x holds tokens 0 to 6; they must be in 0..4"),
        (
            {**SPARE, "train_x": SPARE["train_x"] << 40},
            "symbols = .*: at most 16777216; number them",
        ),
        ({"classes": ["a", "b"]}, "classes = .'a', 'b'.: it must be one positive whole number"),
        ({"classes": 4.5}, "classes = 4.5: it must be one positive whole number"),
        ({"classes": 2**40}, "classes = 1099511627776: at most 16777216"),
        ({"train_y": [0] * 24, "test_y": [0] * 8}, "classes = 1: there must be at least two"),
        ({"clients": [None] * 24}, "clients holds values of type NoneType"),
        ({3: 3}, "3 unknown"),
    ],
)
def test_samples_that_would_be_misread_are_refused(change, message):
    with pytest.raises(ConfigError, match=f"own: {message}"):
        arrays(**change) if 3 not in change else from_arrays("own", RAW | change, "own")


def test_moments_of_0_to_255_have_their_scale():
    data = arrays(mean=[125.0] * 3, std=[63.0] * 3, scale=1)
    x, _ = DeviceData(data, torch.device("cpu")).test_batch(0, 8)
    wanted = torch.tensor((RAW["test_x"].astype(np.float32) - 125) / 63)
    assert torch.allclose(x, wanted, atol=1e-5)


def test_none_stands_for_a_value_that_is_left_out():
    given = arrays(classes=None, clients=None, symbols=None, mean=None, std=None, scale=None)
    assert given.digest() == arrays().digest()


def test_mean_and_std_normalize_float_images_too():
    one = {"mean": [0.5] * 3, "std": [0.25] * 3}
    data = arrays(**FLOATS, **one)
    assert data.is_image and data.scale == 1.0
    x, _ = DeviceData(data, torch.device("cpu")).test_batch(0, 8)
    assert torch.allclose(x, torch.tensor((FLOATS["test_x"] - 0.5) / 0.25).float(), atol=1e-6)
    sixteen = arrays(scale=16)
    assert sixteen.mean == pytest.approx((RAW["train_x"] / 16).mean((0, 2, 3)))
