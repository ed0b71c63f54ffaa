"""The kinds of targets that data sets have and losses take."""

from __future__ import annotations

from typing import Literal

# With N samples:
#   classes    int64 [N], in range(classes)
#   multi_hot  float32 [N, L] of zeros and ones, one for each of L labels
#   values     float32 [N, K]
#   tokens     int64 [N, T], one for each position, in range(classes); negative ones do not count
Targets = Literal["classes", "multi_hot", "values", "tokens"]

IN_WORDS: dict[Targets, str] = {
    "classes": "one class per sample",
    "multi_hot": "zeros and ones, one per label (targets=multi_hot)",
    "values": "numbers (targets=values)",
    "tokens": "a token for each position (targets=tokens)",
}
