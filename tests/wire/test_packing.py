"""Packing of integers into bits without gaps."""

import numpy as np
import pytest

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.packing import check_padding, pack, unpack


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 9, 17, 32])
def test_packing(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 21), np.uint32)
    rows = pack(codes, bits)
    assert rows.shape == (3, -(-21 * bits // 8)) and np.array_equal(unpack(rows, 21, bits), codes)
    if 21 * bits % 8:
        rows[1, -1] |= 0x80
        with pytest.raises(MessageError, match="padding"):
            unpack(rows, 21, bits)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_packing_does_not_depend_on_the_type_of_the_integers(dtype):
    codes = np.random.default_rng(0).integers(0, 32, (2, 9))
    rows = pack(codes.astype(dtype), 5)
    assert rows.dtype == np.uint8 and np.array_equal(rows, pack(codes, 5))


@pytest.mark.parametrize("bits", range(1, 17))
def test_padding_is_every_bit_beyond_the_used_ones(bits):
    for at in range(-(-bits // 8) * 8):
        rows = np.packbits(np.arange(-(-bits // 8) * 8) == at, bitorder="little")[None]
        if at < bits:
            check_padding(rows, bits)
        else:
            with pytest.raises(MessageError, match="padding bits are set"):
                check_padding(rows, bits)
