"""The coordinates that a sparse message holds."""

import numpy as np
import pytest

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.compressors import TopK
from tests.helpers.codecs import DIM, FakeDraws, overwrite, support
from tests.helpers.quadratics import normal


def test_top_k_refuses_impossible_supports():
    code = TopK(support(0.05, "index32"))
    rows = code.encode(code.compress(normal(1, DIM).float(), FakeDraws()))
    cut = 4 * code.support.total
    index = rows[:, cut:].copy().view("<u4")
    for wrong, what in (
        (index[:, ::-1], "ascending"),
        (np.where(np.arange(19) == 18, DIM, index), "below"),
        (np.arange(19)[None], "blocks"),
    ):
        bad = np.concatenate([rows[:, :cut], np.ascontiguousarray(wrong, "<u4").view(np.uint8)], -1)
        with pytest.raises(MessageError, match=what):
            code.decode(bad, DIM)
    mask = TopK(support(0.05, "mask"))
    rows = mask.encode(mask.compress(normal(1, DIM).float(), FakeDraws()))
    with pytest.raises(MessageError, match="mask"):
        mask.decode(overwrite(rows, slice(cut, None), 0), DIM)


@pytest.mark.parametrize("places", [[3], [3, 30], range(DIM)])
def test_top_k_keeps_nan(places):
    """It is then found in the upload, where the client's values are checked."""
    value = normal(2, DIM).float()
    value[1, list(places)] = float("nan")
    kept = TopK(support(0.05, "mask")).compress(value, FakeDraws())
    assert kept[1, list(places)].isnan().all() and not kept[0].isnan().any()
