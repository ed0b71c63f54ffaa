"""Archives of arrays, the user's own loaders and Hugging Face data sets: what they give, and what is said about broken data."""

import numpy as np
import pytest
from helpers.dataset_files import write_hugging_face

from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem


def arrays(n=24, shape=(3, 8, 8), **more):
    rng = np.random.default_rng(0)
    return {
        "train_x": rng.integers(256, size=(n, *shape)).astype(np.uint8),
        "train_y": np.arange(n) % 4,
        "test_x": rng.integers(256, size=(8, *shape)).astype(np.uint8),
        "test_y": np.arange(8) % 4,
        **more,
    }


def own_loader(root, **options):
    """What a user would write."""
    return arrays(**options)


def bad_loader(root):
    return [1, 2]


def test_npz(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(clients=np.arange(24) % 6))
    data = load_dataset(DataConfig("npz", str(tmp_path / "own.npz")))
    assert (
        data.train_x.dtype == np.uint8
        and data.classes == 4
        and data.clients.max() == 5
        and data.is_image
    )
    np.savez(tmp_path / "grey.npz", **arrays(shape=(8, 8)))
    assert load_dataset(DataConfig("npz", str(tmp_path / "grey.npz"))).shape == (1, 8, 8)
    (tmp_path / "half.npz").write_bytes((tmp_path / "own.npz").read_bytes()[:3000])
    with pytest.raises(ConfigError, match="half.npz cannot be read"):
        load_dataset(DataConfig("npz", str(tmp_path / "half.npz")))
    with pytest.raises(ConfigError, match="is not an .npz file; set data.root to the file itself"):
        load_dataset(DataConfig("npz", str(tmp_path)))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"train_y": np.arange(23) % 4},
            "train_x .24, 3, 8, 8. and train_y .23.* must hold the same number",
        ),
        ({"test_y": np.full(8, 4)}, r"test_y\[0\] = 4: labels must be in 0..3"),
        ({"train_y": np.linspace(0, 1, 24)}, "train_y is float64; it must hold whole numbers"),
        (
            {"test_x": np.zeros((8, 3, 9, 9), np.uint8)},
            r"training samples are \[3, 8, 8\] .* test samples \[3, 9, 9\]",
        ),
        ({"train_x": np.full((24, 5), np.nan), "test_x": np.zeros((8, 5))}, "NaN or infinite"),
        ({"train_x": np.array(["a"] * 24)}, "samples .24. of type <U1"),
        (
            {"clients": np.arange(5)},
            "clients .5. must hold one whole number for every training sample",
        ),
        ({"colour": np.zeros(1)}, "colour unknown"),
        ({"mean": [0.5], "std": [1.0]}, "need a number for each of the 3 channels"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, message):
    np.savez(tmp_path / "own.npz", **{**arrays(), **change})
    with pytest.raises(ConfigError, match=message):
        load_dataset(DataConfig("npz", str(tmp_path / "own.npz")))


def test_a_users_own_loader():
    data = load_dataset(DataConfig("import:test_sources:own_loader", options={"n": 40}))
    assert len(data.train_y) == 40 and data.is_image
    for name, message in [
        ("bad_loader", "returned a list; it must return a mapping with train_x"),
        ("nothing", "has no function nothing"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_dataset(DataConfig(f"import:test_sources:{name}"))
    with pytest.raises(ConfigError, match="import:test_sources:own_loader: m unknown"):
        load_dataset(DataConfig("import:test_sources:own_loader", options={"m": 40}))


def test_data_names_and_options_are_checked():
    with pytest.raises(
        ConfigError, match="data.dataset = 'shakespear': must be one of .* did you mean shakespeare"
    ):
        parse({"data": {"dataset": "shakespear"}})
    with pytest.raises(ConfigError, match="data.dataset = digits reads no options"):
        load_dataset(DataConfig("digits", options={"n": 1}))
    with pytest.raises(ConfigError, match="data.augment = true: .* has no uint8 images"):
        Problem.of(
            parse(
                {
                    "data": {
                        "dataset": "import:test_sources:tokens",
                        "clients": 2,
                        "augment": True,
                    },
                    "federation": {"cohort": 1},
                    "model": {"name": "char_lstm"},
                }
            )
        )


def tokens(root):
    x = np.arange(60).reshape(12, 5) % 7
    return {"train_x": x, "train_y": x[:, 0], "test_x": x, "test_y": x[:, 0]}


# --- Hugging Face ------------------------------------------------------------------------------------------------


def test_hugging_face_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ConfigError, match=r"needs the package `datasets`; pip install 'fedsmu-ray\[hf\]'"
    ):
        load_dataset(DataConfig("hf:mnist"))
    with pytest.raises(ConfigError, match="data.options.picture: unknown key"):
        load_dataset(DataConfig("hf:mnist", options={"picture": "x"}))


def test_hugging_face_from_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the optional extra hf")
    write_hugging_face(datasets, tmp_path / "own")
    data = load_dataset(DataConfig(f"hf:{tmp_path / 'own'}", options={"client": "writer"}))
    assert (
        data.train_x.shape == (9, 3, 6, 6)
        and data.train_x[2, 0, 0, 0] == 20
        and data.clients.tolist() == [0, 1, 2] * 3
    )
    with pytest.raises(
        ConfigError, match="no split dev; set data.options.test to one of train, test"
    ):
        load_dataset(DataConfig(f"hf:{tmp_path / 'own'}", options={"test": "dev"}))
    with pytest.raises(
        ConfigError, match="no column pixels; set data.options.image to one of img, label, writer"
    ):
        load_dataset(DataConfig(f"hf:{tmp_path / 'own'}", options={"image": "pixels"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_dataset(DataConfig(f"hf:{tmp_path / 'absent'}"))
