"""The list of methods, and one of them in full."""

from dataclasses import fields

import pytest

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.commands.methods import main


def test_the_list_has_a_line_for_every_method(capsys):
    assert main([]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["method", "upload", "download"]
    assert [row.split()[0] for row in rows] == list(METHODS)
    assert rows[0].split(maxsplit=3) == [
        *("fedsmu", "1.00", "32.00"),
        "the Lion optimizer split between clients and server, with 1-bit uploads",
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_shown_with_its_paper_bits_and_options(capsys, name):
    assert main([name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ") and "defaults     " in out
    for option in (f.name for f in fields(METHODS[name])):
        assert f"\nalgorithm.{option}=" in out


def test_the_variants_of_a_method_are_shown(capsys):
    main(["fedsmu"])
    lines = capsys.readouterr().out.splitlines()
    assert "bits: 8, scaled: true              8.00    32.00  m; x" in lines


def test_an_unknown_method_is_named_with_the_nearest(capsys):
    assert main(["fedsm"]) == 2
    assert "'fedsm': must be one of fedsmu" in (err := capsys.readouterr().err)
    assert err.endswith("did you mean fedsmu?\n")
