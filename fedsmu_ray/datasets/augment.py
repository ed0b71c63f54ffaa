"""Training augmentation of FedDyn and FedSMU: random flips and zero-padded crops."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsmu_ray.numerics import gpu, streams


def flip_and_crop(x: Tensor, key: Tensor, step: int) -> Tensor:
    """Augmented copies of normalized images x [C, S, B, channels, H, W], S steps of C clients.

    key: int64 [C], the random stream of each client. With probability 1/2 an image is mirrored;
    with probability 1/2 it is then padded by p zeros on every side (after normalization, so by the
    mean color) and cropped to H x W at offsets uniform in 0..2p; p = 4, or 8 from 64 pixels. What
    happens to sample b in local step `step` follows from word (step << 32) + b of its client's
    stream, so it does not depend on the other clients of the group.
    """
    height, width = x.shape[-2:]
    pad = 8 if min(height, width) >= 64 else 4
    steps = torch.arange(step, step + x.shape[1], device=x.device)[:, None]
    slot = (steps << 32) + torch.arange(x.shape[2], device=x.device)
    word = streams.words(gpu.upload(key, x.device)[:, None, None], slot).flatten()
    flip, crop = (word & 1).bool(), (word >> 1 & 1).bool()
    down, right = (
        torch.where(crop, ((word >> shift & 0xFFFFFF) * (2 * pad + 1) >> 24) - pad, 0)
        for shift in (2, 26)
    )
    # Row and column that every output pixel comes from; pixels of the border are set to zero below.
    row = torch.arange(height, device=x.device) + down[:, None]
    column = torch.arange(width, device=x.device) + right[:, None]
    row_inside, column_inside = (row >= 0) & (row < height), (column >= 0) & (column < width)
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    column = torch.where(flip[:, None], width - 1 - column, column).clamp(0, width - 1)
    source = (row.clamp(0, height - 1)[:, :, None] * width + column[:, None, :]).flatten(1)
    pixels = x.flatten(0, 2).flatten(2)
    moved = pixels.gather(2, source[:, None, :].expand_as(pixels))
    return moved.mul_(inside.flatten(1)[:, None, :]).view(x.shape)
