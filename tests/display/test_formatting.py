"""Numbers and parameters as text."""

import pytest

from fedsmu_ray.display.formatting import (
    describe_params,
    dropped_note,
    percent,
    plain_value,
    run_name,
    short_key,
    size,
    stdout,
)


@pytest.mark.parametrize(
    "nbytes, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_500_000, "1.5 MB"),
        (10**9, "1 GB"),
        (2.5e12, "2.5 TB"),
        (10**15, "1e+03 TB"),
    ],
)
def test_sizes_have_decimal_units(nbytes, text):
    assert size(nbytes) == text


def test_shares_are_shown_in_percent():
    assert percent(0.98765) == "98.77 %" and percent(0.0) == "0.00 %" and percent(None) == "-"


def test_dropped_clients_are_shown_if_there_are_any():
    assert [dropped_note(n) for n in (0, 1, 2)] == [
        "",
        ", 1 upload missing",
        ", 2 uploads missing",
    ]


@pytest.mark.parametrize(
    "key, short",
    [
        ("local.lr", "lr"),
        ("seed", "seed"),
        ("algorithm.name", "algorithm"),
        ("data.partition.alpha", "alpha"),
        ("local.lr, algorithm.gamma1", "lr/gamma1"),
    ],
)
def test_keys_are_shown_by_their_last_part(key, short):
    assert short_key(key) == short


def test_values_are_shown_plainly():
    assert [plain_value(value) for value in (None, 0.1 + 0.2, 1e-5, 3, "dlion", [1, 2])] == [
        "-",
        "0.3",
        "1e-05",
        "3",
        "dlion",
        "[1, 2]",
    ]


def test_swept_parameters_are_described_in_short():
    params = {"algorithm.name": "fedavg", "local.lr": 0.05, "model.groups": None}
    assert describe_params(params) == "algorithm=fedavg, lr=0.05, groups=-"
    assert describe_params({}) == ""


def test_the_name_of_a_run_is_short():
    params = {"algorithm.name": "fedsmu", "algorithm.gamma1": 0.02, "seed": 3}
    assert run_name("fedsmu", params, 3) == "fedsmu gamma1=.02 s=3"
    params = {"algorithm.beta1, algorithm.beta2": -0.5, "local.lr": 10.5, "model.hidden": [0.1]}
    name = run_name("import:own:Method", params, 0)
    assert name == "import:own:Method beta1/beta2=-.5 lr=10.5 hidden=[0.1] s=0"


def test_piped_results_have_room_for_every_table(capsys):
    console = stdout()
    console.print("x" * 199)
    assert console.width == 200 and capsys.readouterr().out == "x" * 199 + "\n"
