"""Operations of PyTorch by what they would do on a card; for `tests.helpers.card`."""

from __future__ import annotations

import torch

aten = torch.ops.aten

COPIES = {aten._to_copy.default, aten.copy_.default}

# Matrix products: with deterministic algorithms they need a fixed workspace of cuBLAS.
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot}

# The setting that has the precision of an operation.
PRECISION_OF = dict.fromkeys(PRODUCTS, torch.backends.cuda.matmul) | {
    aten.convolution: torch.backends.cudnn.conv,
    aten.convolution_backward: torch.backends.cudnn.conv,
}

INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}

# These take a host tensor of no dimensions beside tensors of the card; so do pointwise operations.
TAKES_HOST_SCALARS = {
    aten.index_put,
    aten.index_put_,
    aten._index_put_impl_,
    aten.masked_fill,
    aten.masked_fill_,
    aten.fill_,
    aten.where,
}

NO_LAUNCH = {  # beside the views
    aten._unsafe_view,
    aten._reshape_alias,
    aten.lift_fresh,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.set_,
    aten._local_scalar_dense,
}

# The host waits for these, since it needs a value or the shape of the result depends on values.
WAITS = {
    aten._local_scalar_dense: "value read by Python",
    aten.nonzero: "shape of nonzero",
    aten.masked_select: "shape of masked_select",
    aten.equal: "equal",
    aten.is_nonzero: "value read by Python",
    aten._unique2: "shape of unique",
    aten.unique_dim: "shape of unique",
    aten.unique_consecutive: "shape of unique",
    aten.bincount: "shape of bincount",
    aten.repeat_interleave: "shape of repeat_interleave",
}

# What torch.use_deterministic_algorithms refuses on CUDA in any version from 2.11 on; its
# documentation has the list.
REFUSED = {
    aten._adaptive_avg_pool2d_backward,
    aten._adaptive_avg_pool3d_backward,
    aten.adaptive_max_pool2d_backward,
    aten.avg_pool3d_backward,
    aten.fractional_max_pool2d_backward,
    aten.fractional_max_pool3d_backward,
    aten.max_pool3d_with_indices_backward,
    aten.max_unpool2d,
    aten.max_unpool3d,
    aten.upsample_linear1d_backward,
    aten.upsample_bilinear2d_backward,
    aten.upsample_bicubic2d_backward,
    aten.upsample_trilinear3d_backward,
    aten.reflection_pad1d_backward,
    aten.reflection_pad2d_backward,
    aten.reflection_pad3d_backward,
    aten.nll_loss2d_forward,
    aten._ctc_loss_backward,
    aten.put_,
    aten.histc,
    aten.median,
    aten.nanmedian,
    aten.grid_sampler_2d_backward,
    aten.grid_sampler_3d_backward,
}
REFUSED_OF_FLOATS = {aten.cumsum, aten.cumsum_}
