"""Packing of integers into bits without gaps."""

import numpy as np
import pytest
import torch

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.packing import check_padding, pack, pack_positive, unpack
from tests.helpers.card import card


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


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_signs_are_packed_on_the_card_with_the_bits_of_the_host(dtype, count):
    generator = torch.Generator().manual_seed(count)
    signs = torch.randint(-1, 2, (3, count), generator=generator).to(dtype)
    rows = pack_positive(signs)
    assert np.array_equal(rows, pack((signs > 0).numpy(), 1))
    with card() as used:
        on_card = signs.to("cuda")
        assert np.array_equal(pack_positive(on_card), rows)
    assert used.to_host == rows.nbytes  # and not one byte for each sign
    assert used.waits.total() == 2  # for the signs to the card, and for the bits back
