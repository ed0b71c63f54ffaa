"""Self-attention of `nn.MultiheadAttention` with fewer copies in training.

PyTorch takes query, key and value out of their product one by one, so that the gradient of each is
written into zeros of the size of all three, and copies them. Here it is one copy.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.MultiheadAttention):
    """The same layer. Whatever is not plain self-attention in training is left to PyTorch."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention`; query: [B, length, width]."""
        if args or not (query is key is value) or not self._is_plain(query, options):
            return super().forward(query, key, value, *args, **options)
        product = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = product.view(*query.shape[:2], 3, self.num_heads, self.head_dim).transpose(1, 3)
        q, k, v = heads.unbind(2)  # [B, heads, length, width of a head]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(mixed, self.out_proj.weight, self.out_proj.bias), None

    def _is_plain(self, query: Tensor, options: dict[str, Any]) -> bool:
        """Whether no masks, weights, dropout or further keys are asked for."""
        options = {key: value for key, value in options.items() if value is not None}
        weights, causal = options.pop("need_weights", True), options.pop("is_causal", False)
        options.pop("average_attn_weights", None)  # only of weights
        layer = self.batch_first and self.in_proj_weight is not None and self.bias_k is None
        draws = self.dropout or self.add_zero_attn
        asked = options or weights or causal
        batched = query.dim() == 3 and not query.is_nested
        return bool(self.training and layer and batched) and not draws and not asked


def simplify(module: nn.Module) -> None:
    """Have the attention layers of a module compute like this."""
    for layer in module.modules():
        if type(layer) is nn.MultiheadAttention:
            layer.__class__ = SelfAttention
