"""The colors of methods."""

import re

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.display import colors
from fedsmu_ray.display.colors import PALETTE, color_of, colors_of


def test_every_method_has_a_color_of_the_palette():
    assert set(colors.METHODS) == set(METHODS)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in PALETTE)
    assert color_of("fedsmu") != color_of("fedavg")
    assert color_of("import:mine:Method") == color_of("import:mine:Method") in PALETTE


def test_methods_that_are_shown_together_differ_while_there_are_colors():
    alike = [method for method in METHODS if color_of(method) == color_of("fedsmu")]
    assert len(alike) > 1
    assert colors_of(alike)["fedsmu"] == color_of("fedsmu")
    eight = colors_of([*alike, *METHODS][: len(PALETTE)])
    assert len(set(eight.values())) == len(eight)
    assert set(colors_of(METHODS)) == set(METHODS)
