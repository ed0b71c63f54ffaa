"""Text, folders, archives of arrays and the user's own loaders: what they read, and what they say about broken data."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fedsmu_ray.config import DataConfig, parse
from fedsmu_ray.data import DeviceData, cache
from fedsmu_ray.data.datasets import load_dataset
from fedsmu_ray.data.leaf import ALPHABET
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.problem import Problem

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- LEAF --------------------------------------------------------------------------------------------------------


def write_leaf(root, change=None):
    """Two users, each a text cut into windows of 5 characters and the next one; `change` edits the training file."""
    for split, text in (("train", "To be, or not to be\nthat is"), ("test", "the question: whether")):
        windows = [(text[i : i + 5], text[i + 5]) for i in range(len(text) - 5)]
        of = {"HAMLET": windows, "GHOST": windows[4:]}
        data = {user: {"x": [x for x, _ in own], "y": [y for _, y in own]} for user, own in of.items()}
        plain = {"users": list(data), "num_samples": [len(own) for own in of.values()], "user_data": data}
        if split == "train" and change:
            change(plain)
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / split / "all.json").write_text(json.dumps(plain))
    return DataConfig("shakespeare", str(root))


def test_leaf_text(tmp_path):
    data = load_dataset(write_leaf(tmp_path))
    assert data.train_x.shape == (40, 5) and data.train_x.dtype == np.uint8 and data.train_y.dtype == np.int64
    assert (data.classes, data.symbols, len(ALPHABET), len(set(ALPHABET))) == (80, 80, 80, 80)
    assert "".join(ALPHABET[t] for t in data.train_x[0]) + ALPHABET[data.train_y[0]] == "To be,"
    assert data.clients.tolist() == [0] * 22 + [1] * 18
    inputs, _ = DeviceData(data, CPU).batch(torch.arange(4)[None])
    assert inputs.shape == (1, 4, 5) and inputs.dtype == torch.int64


def damaged(what):
    def change(plain):
        user = plain["user_data"]["GHOST"]
        match what:
            case "character":
                user["x"][3] = "caf\u00e9s"
            case "length":
                user["x"][2] = "short text"
            case "label":
                user["y"] = ["ab"] * len(user["y"])
            case "count":
                user["x"].pop()
            case "format":
                del plain["user_data"]["GHOST"]
    return change


@pytest.mark.parametrize("what, message", [
    ("character", r"all.json, user GHOST, x\[3\]: character 'é' is not among the 80 symbols"),
    ("length", r"user GHOST, x\[2\] = 'short text': expected 5 characters"),
    ("label", r"user GHOST: y\[0\] = 'ab': expected one character"),
    ("count", "user GHOST: 17 samples and 18 labels, but num_samples says 18"),
    ("format", "all.json is not in LEAF's format: KeyError 'GHOST'"),
])
def test_broken_leaf_files_name_file_and_user(tmp_path, what, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset(write_leaf(tmp_path, damaged(what)))


def test_half_a_leaf_file_and_none(tmp_path):
    config = DataConfig("shakespeare", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no folder train/ with LEAF's JSON files in"):
        load_dataset(config)
    write_leaf(tmp_path)
    text = (tmp_path / "test/all.json").read_text()
    (tmp_path / "test/all.json").write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError, match="test/all.json is not a whole JSON file"):
        load_dataset(config)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(ConfigError, match="test has no .*json files"):
        load_dataset(config)


def test_leaf_numbers_and_other_alphabets(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        data = {"a": {"x": [[0.5, 1.0], [0.0, 0.25]], "y": [0, 2]}, "b": {"x": [[0.1, 0.2]], "y": [1]}}
        plain = {"users": ["a", "b"], "num_samples": [2, 1], "user_data": data}
        (tmp_path / split / "f.json").write_text(json.dumps(plain))
    data = load_dataset(DataConfig("leaf", str(tmp_path)))
    assert (data.train_x.dtype, data.classes, data.symbols) == (np.float32, 3, None) and data.clients.tolist() == [0, 0, 1]
    assert torch.equal(DeviceData(data, CPU).test_batch(0, 1)[0], torch.tensor([[0.5, 1.0]]))
    with pytest.raises(ConfigError, match="reads only the option alphabet"):
        load_dataset(DataConfig("leaf", str(tmp_path), options={"letters": "abc"}))
    write_leaf(tmp_path / "text")
    short = DataConfig("leaf", str(tmp_path / "text"), options={"alphabet": ALPHABET.replace("q", "")})
    with pytest.raises(ConfigError, match="character 'q' is not among the 79"):
        load_dataset(short)


def test_shakespeare(data_root):  # oracle 33
    if not ((data_root / "shakespeare" / "train").is_dir()):
        pytest.skip(f"no shakespeare/train in {data_root}")
    data = load_dataset(DataConfig("shakespeare", str(data_root)))
    assert data.train_x.shape == (200_000, 80) and data.test_x.shape == (40_000, 80) and data.symbols == 80
    assert (np.bincount(data.clients) == 2000).all()
    assert (np.bincount(data.test_y).max() / 40_000) == pytest.approx(0.1876)  # the majority class: space
    first = data.train_x.reshape(100, 2000, 80)
    assert (data.train_y.reshape(100, 2000)[:, :-1] == first[:, 1:, -1]).mean() == 1  # the next character ends the next window
    for role, test in zip(first[:20], data.test_x.reshape(100, 400, 80)):
        seen = {role[:, i : i + 40].tobytes() for i in (0, 40)} | {w[:40].tobytes() for w in role}
        assert sum(w[:40].tobytes() in seen for w in test) <= 4  # no overlap beyond phrases that a role repeats


# --- images ------------------------------------------------------------------------------------------------------


def image(path, seed=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def tiny(tmp_path):
    """A Tiny-ImageNet of three classes with four training and two validation images each."""
    root, wnids = tmp_path / "tiny-imagenet-200", ["n03", "n01", "n02"]
    lines = []
    for c, wnid in enumerate(wnids):
        for i in range(4):
            image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * c + i, mode="L" if i == 3 else "RGB")
        for i in range(2):
            image(root / "val/images" / f"val_{2 * c + i}.JPEG", 100 + 2 * c + i)
            lines.append(f"val_{2 * c + i}.JPEG\t{wnid}\t0\t0\t7\t7")
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tiny_imagenet(tiny):
    data = load_dataset(DataConfig("tiny_imagenet", str(tiny.parent)))
    assert data.train_x.shape == (12, 3, 8, 8) and data.test_y.tolist() == [0, 0, 1, 1, 2, 2] and data.classes == 3
    assert np.array_equal(data.train_x[5], np.asarray(Image.open(tiny / "train/n01/images/n01_1.JPEG")).transpose(2, 0, 1))
    scaled = data.train_x / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3))) and data.std == pytest.approx(scaled.std((0, 2, 3)))


@pytest.mark.parametrize("what, message", [
    ("train", "1 of 3 classes have too few images .n02 has 3, others 4.; unpack it"),
    ("class", "n01 has 0, others 4"),
    ("val", "val_3.JPEG is missing .line 4 of val_annotations.txt"),
    ("label", "val_annotations.txt, line 6: label 'n99' of 'val_5.JPEG' is not in wnids.txt"),
    ("annotations", "val_annotations.txt is missing"),
    ("short", "labels 3 of 6 images"),
    ("size", "n01_2.JPEG is 9x8 pixels, the others are 8x8"),
    ("half", "n01_2.JPEG is not a readable image"),
    ("wnids", "no wnids.txt in"),
])
def test_broken_tiny_imagenet_is_named(tiny, what, message):
    annotations = tiny / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines()
    match what:
        case "train":
            (tiny / "train/n02/images/n02_0.JPEG").unlink()
        case "class":
            shutil.rmtree(tiny / "train/n01")
        case "val":
            (tiny / "val/images/val_3.JPEG").unlink()
        case "label":
            annotations.write_text("\n".join([*lines[:5], lines[5].replace("n02", "n99")]))
        case "annotations":
            annotations.unlink()
        case "short":
            annotations.write_text("\n".join(lines[:3]))
        case "size":
            image(tiny / "train/n01/images/n01_2.JPEG", size=(9, 8))
        case "half":
            file = tiny / "train/n01/images/n01_2.JPEG"
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "wnids":
            (tiny / "wnids.txt").unlink()
    with pytest.raises(ConfigError, match=message):
        load_dataset(DataConfig("tiny_imagenet", str(tiny)))


def test_images_are_decoded_once(tiny, cache_folder, monkeypatch):
    config = DataConfig("tiny_imagenet", str(tiny))
    first = load_dataset(config)
    (entry,) = cache_folder.iterdir()
    from fedsmu_ray.data import images

    monkeypatch.setattr(images, "_decode", None)  # would fail
    again = load_dataset(config)
    assert np.array_equal(first.train_x, again.train_x) and again.mean == first.mean and again.std == first.std
    assert type(again.train_x) is np.ndarray and not again.train_x.flags.writeable and not again.train_x.flags.owndata
    assert os.listdir(cache_folder) == [entry.name]  # nothing temporary stays


@pytest.mark.parametrize("damage, message", [
    (lambda entry: os.truncate(entry / "train_x.npy", 200), "train_x.npy is damaged"),
    (lambda entry: (entry / "test_x.npy").write_bytes(b""), "test_x.npy is damaged"),
    (lambda entry: (entry / "meta.json").write_text("{"), "damaged .JSONDecodeError"),
    (lambda entry: (entry / "train_y.npy").unlink(), "damaged .FileNotFoundError"),
])
def test_a_damaged_cache_is_named_and_made_again(tiny, cache_folder, caplog, damage, message):
    config = DataConfig("tiny_imagenet", str(tiny))
    first = load_dataset(config)
    pixels = first.train_x.copy()
    (entry,) = cache_folder.iterdir()
    damage(entry)
    with caplog.at_level(logging.WARNING):
        again = load_dataset(config)
    assert message.split(" .")[0] in caplog.text and str(entry) in caplog.text and "decoding the images again" in caplog.text
    assert np.array_equal(again.train_x, pixels)


def test_changed_images_are_decoded_again(tiny, caplog):
    config = DataConfig("tiny_imagenet", str(tiny))
    before = load_dataset(config).train_x.copy()
    image(tiny / "train/n03/images/n03_0.JPEG", seed=77)
    os.utime(tiny / "train/n03/images/n03_0.JPEG", (1, 1))
    after = load_dataset(config).train_x
    assert not np.array_equal(before[0], after[0]) and np.array_equal(before[1:], after[1:])
    assert "made of other files than there are now" in caplog.text


def test_a_cache_that_cannot_be_written(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written: .*FEDSMU_CACHE"):
        load_dataset(DataConfig("tiny_imagenet", str(tiny)))
    assert cache.folder() == tmp_path / "file"


# --- arrays ------------------------------------------------------------------------------------------------------


def arrays(n=24, shape=(3, 8, 8), **more):
    rng = np.random.default_rng(0)
    return {"train_x": rng.integers(256, size=(n, *shape)).astype(np.uint8), "train_y": np.arange(n) % 4,
            "test_x": rng.integers(256, size=(8, *shape)).astype(np.uint8), "test_y": np.arange(8) % 4, **more}


def own_loader(root, **options):
    """What a user would write."""
    return arrays(**options)


def bad_loader(root):
    return [1, 2]


def test_npz(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(clients=np.arange(24) % 6))
    data = load_dataset(DataConfig("npz", str(tmp_path / "own.npz")))
    assert data.train_x.dtype == np.uint8 and data.classes == 4 and data.clients.max() == 5 and data.is_image
    np.savez(tmp_path / "grey.npz", **arrays(shape=(8, 8)))
    assert load_dataset(DataConfig("npz", str(tmp_path / "grey.npz"))).shape == (1, 8, 8)
    (tmp_path / "half.npz").write_bytes((tmp_path / "own.npz").read_bytes()[:3000])
    with pytest.raises(ConfigError, match="half.npz cannot be read"):
        load_dataset(DataConfig("npz", str(tmp_path / "half.npz")))
    with pytest.raises(ConfigError, match="is not an .npz file; set data.root to the file itself"):
        load_dataset(DataConfig("npz", str(tmp_path)))


@pytest.mark.parametrize("change, message", [
    ({"train_y": np.arange(23) % 4}, "train_x .24, 3, 8, 8. and train_y .23.* must hold the same number"),
    ({"test_y": np.full(8, 4)}, r"test_y\[0\] = 4: labels must be in 0..3"),
    ({"train_y": np.linspace(0, 1, 24)}, "train_y is float64; it must hold whole numbers"),
    ({"test_x": np.zeros((8, 3, 9, 9), np.uint8)}, r"training samples are \[3, 8, 8\] .* test samples \[3, 9, 9\]"),
    ({"train_x": np.full((24, 5), np.nan), "test_x": np.zeros((8, 5))}, "NaN or infinite"),
    ({"train_x": np.array(["a"] * 24)}, "samples .24. of type <U1"),
    ({"clients": np.arange(5)}, "clients .5. must hold one whole number for every training sample"),
    ({"colour": np.zeros(1)}, "colour unknown"),
    ({"mean": [0.5], "std": [1.0]}, "need a number for each of the 3 channels"),
])
def test_arrays_that_do_not_fit(tmp_path, change, message):
    np.savez(tmp_path / "own.npz", **{**arrays(), **change})
    with pytest.raises(ConfigError, match=message):
        load_dataset(DataConfig("npz", str(tmp_path / "own.npz")))


def test_a_users_own_loader():
    data = load_dataset(DataConfig("import:test_sources:own_loader", options={"n": 40}))
    assert len(data.train_y) == 40 and data.is_image
    for name, message in [("bad_loader", "returned a list; it must return a mapping with train_x"),
                          ("nothing", "has no function nothing")]:
        with pytest.raises(ConfigError, match=message):
            load_dataset(DataConfig(f"import:test_sources:{name}"))
    with pytest.raises(ConfigError, match="import:test_sources:own_loader: m unknown"):
        load_dataset(DataConfig("import:test_sources:own_loader", options={"m": 40}))


def test_data_names_and_options_are_checked():
    with pytest.raises(ConfigError, match="data.dataset = 'shakespear': must be one of .* did you mean shakespeare"):
        parse({"data": {"dataset": "shakespear"}})
    with pytest.raises(ConfigError, match="data.dataset = digits reads no options"):
        load_dataset(DataConfig("digits", options={"n": 1}))
    with pytest.raises(ConfigError, match="data.augment = true: .* has no uint8 images"):
        Problem.of(parse({"data": {"dataset": "import:test_sources:tokens", "clients": 2, "augment": True},
                          "federation": {"cohort": 1}, "model": {"name": "char_lstm"}}))


def tokens(root):
    x = np.arange(60).reshape(12, 5) % 7
    return {"train_x": x, "train_y": x[:, 0], "test_x": x, "test_y": x[:, 0]}


# --- Hugging Face ------------------------------------------------------------------------------------------------


def test_hugging_face_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package `datasets`; pip install 'fedsmu-ray\[hf\]'"):
        load_dataset(DataConfig("hf:mnist"))
    with pytest.raises(ConfigError, match="data.options.picture: unknown key"):
        load_dataset(DataConfig("hf:mnist", options={"picture": "x"}))


def test_hugging_face_from_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the optional extra hf")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]),
                                  "writer": datasets.Value("string")})

    def split(n):
        rows = {"img": [Image.fromarray(np.full((6, 6, 3), 10 * i, np.uint8)) for i in range(n)],
                "label": [i % 2 for i in range(n)], "writer": [f"w{i % 3}" for i in range(n)]}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": split(9), "test": split(4)}).save_to_disk(tmp_path / "own")
    data = load_dataset(DataConfig(f"hf:{tmp_path / 'own'}", options={"client": "writer"}))
    assert data.train_x.shape == (9, 3, 6, 6) and data.train_x[2, 0, 0, 0] == 20 and data.clients.tolist() == [0, 1, 2] * 3
    with pytest.raises(ConfigError, match="no split dev; set data.options.test to one of train, test"):
        load_dataset(DataConfig(f"hf:{tmp_path / 'own'}", options={"test": "dev"}))
    with pytest.raises(ConfigError, match="no column pixels; set data.options.image to one of img, label, writer"):
        load_dataset(DataConfig(f"hf:{tmp_path / 'own'}", options={"image": "pixels"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_dataset(DataConfig(f"hf:{tmp_path / 'absent'}"))
