"""LEAF's JSON files, Shakespeare among them, and the errors for broken files."""

import json
import mmap
import shutil

import numpy as np
import pytest
import torch

from fedsmu_ray.datasets import json_stream, leaf, mapped
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.leaf import ALPHABET
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_leaf

CPU = torch.device("cpu")


def test_leaf_text(tmp_path):
    write_leaf(tmp_path)
    data = load("shakespeare", tmp_path)
    assert data.train_x.shape == (40, 5)
    assert data.train_x.dtype == np.uint8 and data.train_y.dtype == np.int64
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
            case "list":
                plain["users"].remove("GHOST")
                plain["num_samples"].pop()
            case "labels":
                del user["y"]

    return change


@pytest.mark.parametrize(
    "what, message",
    [
        ("character", r"all.json, user GHOST, x\[3\]: character 'é' is not among the 80 symbols"),
        ("length", r"user GHOST, x\[2\] = 'short text': expected 5 characters"),
        ("label", r"user GHOST: y\[0\] = 'ab': expected one character"),
        ("count", "user GHOST: 17 samples and 18 labels, but num_samples says 18"),
        (
            "format",
            r"all.json is not in LEAF's format \(user GHOST is in users, but not in user_data",
        ),
        (
            "list",
            r"all.json is not in LEAF's format \(user GHOST is in user_data, but not in users",
        ),
        ("labels", r"all.json is not in LEAF's format \(user GHOST has no y\)"),
    ],
)
def test_broken_leaf_files_name_file_and_user(tmp_path, what, message):
    write_leaf(tmp_path, damaged(what))
    with pytest.raises(ConfigError, match=message):
        load("shakespeare", tmp_path)


def test_incomplete_and_missing_leaf_files(tmp_path):
    with pytest.raises(ConfigError, match=r"no folder train/ with LEAF's JSON files in"):
        load("shakespeare", tmp_path)
    write_leaf(tmp_path)
    text = (tmp_path / "test/all.json").read_text()
    (tmp_path / "test/all.json").write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError, match="test/all.json is not a complete JSON file"):
        load("shakespeare", tmp_path)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(ConfigError, match="test has no .*json files"):
        load("shakespeare", tmp_path)


def test_leaf_numbers_and_other_alphabets(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        data = {
            "a": {"x": [[0.5, 1.0], [0.0, 0.25]], "y": [0, 2]},
            "b": {"x": [[0.1, 0.2]], "y": [1]},
        }
        plain = {"users": ["a", "b"], "num_samples": [2, 1], "user_data": data}
        (tmp_path / split / "f.json").write_text(json.dumps(plain))
    data = load("leaf", tmp_path)
    assert data.train_x.dtype == np.float32 and data.clients.tolist() == [0, 0, 1]
    assert data.classes == 3 and data.symbols is None
    assert torch.equal(DeviceData(data, CPU).test_batch(0, 1)[0], torch.tensor([[0.5, 1.0]]))
    with pytest.raises(
        ConfigError, match="letters: unknown key; .*leaf has the options alphabet, classes"
    ):
        load("leaf", tmp_path, letters="abc")
    with pytest.raises(
        ConfigError, match="alphabet: unknown key; .*shakespeare has the options predict"
    ):
        load("shakespeare", tmp_path, alphabet="abc")
    write_leaf(tmp_path / "text")
    with pytest.raises(ConfigError, match="character 'q' is not among the 79"):
        load("leaf", tmp_path / "text", alphabet=ALPHABET.replace("q", ""))


def test_users_without_samples(tmp_path):
    def clear(plain):
        plain["num_samples"] = [0, 0]
        plain["user_data"] = {user: {"x": [], "y": []} for user in plain["users"]}

    write_leaf(tmp_path, clear, splits=("test",))
    with pytest.raises(ConfigError, match="test: no user has samples"):
        load("leaf", tmp_path)


def test_shakespeare(data_root):  # oracle 33
    if not ((data_root / "shakespeare" / "train").is_dir()):
        pytest.skip(f"no shakespeare/train in {data_root}")
    data = load("shakespeare", data_root)
    assert data.train_x.shape == (200_000, 80) and data.test_x.shape == (40_000, 80)
    assert data.symbols == 80
    assert (np.bincount(data.clients) == 2000).all()
    majority = np.bincount(data.test_y).max() / 40_000  # the space
    assert majority == pytest.approx(0.1876)
    first = data.train_x.reshape(100, 2000, 80)
    following = data.train_y.reshape(100, 2000)[:, :-1]
    assert (following == first[:, 1:, -1]).mean() == 1  # the last character of the next window
    for role, test in zip(first[:20], data.test_x.reshape(100, 400, 80)):
        seen = {role[:, i : i + 40].tobytes() for i in (0, 40)} | {w[:40].tobytes() for w in role}
        # No overlap except for phrases that a role repeats.
        assert sum(w[:40].tobytes() in seen for w in test) <= 4


def write_numbers(root, train_y, test_y, x=None, **more):
    """Write the users a and b with one label each list, and samples of two numbers."""
    for split, labels in (("train", train_y), ("test", test_y)):
        data = {
            user: {"x": x or [[0.5, i] for i in range(len(y))], "y": y}
            for user, y in zip("ab", labels)
        }
        plain = {"users": list(data), "num_samples": [len(y) for y in labels], "user_data": data}
        (root / split).mkdir(exist_ok=True)
        (root / split / "f.json").write_text(json.dumps(plain | more))


def test_labels_of_numbers_are_classes(tmp_path, caplog):
    write_numbers(tmp_path, [[10, 30], [30]], [[30], [10]])
    data = load("leaf", tmp_path)
    assert (
        data.classes == 2 and data.train_y.tolist() == [0, 1, 1] and data.test_y.tolist() == [1, 0]
    )
    assert "the 2 labels 10, 30 are used as classes 0..1" in caplog.text
    assert load("leaf", tmp_path, classes=62).train_y.tolist() == [10, 30, 30]
    write_numbers(tmp_path, [["cat", "dog"], ["cat"]], [["dog"], ["cat"]])
    assert load("leaf", tmp_path).train_y.tolist() == [0, 1, 0]
    write_numbers(tmp_path, [[True, False], [True]], [[False], [True]])
    assert load("leaf", tmp_path).train_y.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "labels, more, message",
    [
        (
            ([0, 1], ["a"]),
            {},
            "user b: labels are text, those before numbers; all labels must have",
        ),
        (([0, 0.5], [1]), {}, r"train/f.json, user a: y\[1\] = 0.5: it must hold whole numbers"),
        (([[0, 1]], [[1, 0]]), {}, r"user a: y is \[1, 2\]; it must hold one value per sample"),
        (
            ([0, 1], [1]),
            {"x": ["1.jpg", "2.jpg"]},
            r"user a: a sample, '1.jpg', is text, .*CelebA.*im",
        ),
        (([0, 1], [1]), {"x": [[1], [1, 2]]}, r"user a: x is not an array: .*one shape"),
        (([0, 1], [1]), {"x": [[["a"]], [["b"]]]}, r"user a: x: expected lists of numbers: .*'a'"),
        (([0, 1], [1]), {"num_samples": [2]}, "num_samples has 1 numbers for 2 users"),
        (([], []), {"users": [], "num_samples": [], "user_data": {}}, "train: no user has samples"),
    ],
)
def test_labels_and_samples_of_other_forms_are_refused(tmp_path, labels, more, message):
    x = more.pop("x", None)
    write_numbers(tmp_path, labels if x is None else (labels[0],), [[0]], x, **more)
    with pytest.raises(ConfigError, match=message):
        load("leaf", tmp_path)


def test_what_is_skipped_is_named(tmp_path, caplog):
    write_numbers(tmp_path, [[0, 1], []], [[0]])
    for name in ("._f.json", ".DS_Store", "readme.md"):
        (tmp_path / "train" / name).write_bytes(b"\xff")
    assert load("leaf", tmp_path).clients.tolist() == [0, 0]
    assert caplog.messages == [
        f"{tmp_path / 'train'}: skipped 1 files or folders, as they are not JSON files: readme.md",
        f"{tmp_path / 'train/f.json'}: 1 users have no samples: b",
    ]


def test_labels_that_are_not_lists_and_odd_alphabets(tmp_path):
    def change(plain):
        plain["user_data"]["GHOST"]["y"] = {str(i): y for i, y in enumerate("x" * 18)}

    write_leaf(tmp_path, change)
    with pytest.raises(ConfigError, match=r"LEAF's format \(y of user GHOST must be a list\)"):
        load("leaf", tmp_path)
    with pytest.raises(ConfigError, match="data.options.alphabet = 'aba': a symbol is in it twice"):
        load("leaf", tmp_path, alphabet="aba")
    with pytest.raises(ConfigError, match="data.options.alphabet = ''"):
        load("leaf", tmp_path, alphabet="")
    write_leaf(tmp_path)
    with pytest.raises(ConfigError, match="data.options.classes = 62: text has the classes of its"):
        load("leaf", tmp_path, classes=62)


def test_many_samples_are_kept_in_a_file_while_they_are_read(
    tmp_path, cache_folder, monkeypatch, capsys
):
    write_leaf(tmp_path)
    small = load("shakespeare", tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(mapped, "LARGE", 100)
    monkeypatch.setattr(leaf, "SILENT_MB", -1)
    large = load("shakespeare", tmp_path)
    assert isinstance(mapped._mapping(large.train_x), mmap.mmap)
    assert large.digest() == small.digest()
    assert f"reading {tmp_path}/train (MB)" in capsys.readouterr().err.replace("\n", "")


def test_files_are_read_in_blocks_and_in_any_order(tmp_path, monkeypatch):
    wanted = {}
    for order in (list, reversed):
        write_leaf(tmp_path)
        for split in ("train", "test"):
            file = tmp_path / split / "all.json"
            plain = json.loads(file.read_text())
            for user, samples in plain["user_data"].items():
                plain["user_data"][user] = dict(order(samples.items()))
            file.write_text(json.dumps(dict(order(plain.items())) | {"hierarchies": ["a play"]}))
        wanted[order] = load("shakespeare", tmp_path).digest()
        monkeypatch.setattr(json_stream, "CHUNK", 20)  # two samples
        assert load("shakespeare", tmp_path).digest() == wanted[order]
    assert wanted[list] == wanted[reversed]
    write_leaf(tmp_path, damaged("character"))
    with pytest.raises(ConfigError, match=r"user GHOST, x\[3\]: character 'é'"):
        load("shakespeare", tmp_path)


def test_small_data_need_no_cache_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "file" / "cache"))
    write_leaf(tmp_path)
    assert len(load("shakespeare", tmp_path).train_x) == 40
    monkeypatch.setattr(mapped, "LARGE", 100)
    with pytest.raises(ConfigError, match="has no space for the data .*set .FEDSMU_CACHE"):
        load("shakespeare", tmp_path)


def test_shakespeare_has_the_next_character_of_every_position(data_root):
    last = load("shakespeare", data_root)
    every = load("shakespeare", data_root, predict="all")
    assert every.targets == "tokens" and every.output_shape == (80, 80)
    np.testing.assert_array_equal(every.train_x, last.train_x)
    np.testing.assert_array_equal(every.train_y[:, :-1], last.train_x[:, 1:])
    np.testing.assert_array_equal(every.test_y[:, -1], last.test_y)
