"""How many tokens a share of an image's information takes: few if blank, many if dense.

The information score of TokenCarve (core.information) spreads the singular values of an image's
tokens over them, c_i = sum_j |U_ij| s_j. What an image holds in all is sum_j s_j, and k tokens span
at most k directions, so no k tokens hold more than the k largest. The share s of an image therefore
takes at least

    k(s) = min { k : s_1 + ... + s_k >= s (s_1 + ... + s_n) }

tokens, and that is how many are kept; which ones is the method's business. Summing the score itself
over the tokens in descending order tells nothing: copies of a token score alike, so a blank page
would take as many as a dense one (`python -m benchmarks.keep_information` compares definitions).
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.demand import Demand, check_demand
from foveate.core.greedy.pool import check_numbers

__all__ = ["tokens_holding"]

ROUNDING = 1e-9  # relative, of sums in float64


def tokens_holding(x: Tensor, share: float, *, method: str = "keep_information") -> Tensor:
    """The fewest tokens whose directions could hold a share of each image's information.

    The singular values come from the smaller Gram matrix in float64: in float32 the rounding of
    each would be 3e-4 of the largest, and hundreds of them a good part of the sum.

    Args:
        x: [G, N, D] any float dtype, the tokens of G images.
        share: in (0, 1].
        method: named where this is refused.

    Returns:
        [G] int64 on the host (a device waits), 1..N, and never fewer for a larger share; N for 1;
        1 for tokens that are all zero.

    Raises:
        MethodError: the tokens hold NaN or infinite numbers, or it would take too long or too much
            memory, see `core.demand`.
    """
    num_images, num_tokens, width = x.shape
    if share == 1.0:
        return torch.full((num_images,), num_tokens)
    check_demand(
        information_demand(num_images, num_tokens, width),
        method=method,
        num_images=num_images,
        num_tokens=num_tokens,
        device=x.device,
    )
    x = x.double()
    check_numbers(x - x)  # of infinity, too
    gram = x @ x.transpose(-1, -2) if num_tokens <= width else x.transpose(-1, -2) @ x
    # One by one, so that an image's values do not depend on its company.
    squares = torch.stack([torch.linalg.eigvalsh(of_image) for of_image in gram])
    held = squares.clamp_min(0).sqrt().flip(-1).cumsum(-1)  # [G, min(N, D)]
    enough = held >= share * (1 - ROUNDING) * held[:, -1:]
    return (enough.to(torch.uint8).argmax(dim=-1) + 1).cpu()


def information_demand(num_images: int, num_tokens: int, width: int) -> Demand:
    """What `tokens_holding` takes, measured on one CPU core and extrapolated."""
    side = min(num_tokens, width)
    return Demand(
        what=f"the singular values of {num_tokens} x {width} states (keep_information)",
        bytes=8 * num_images * (num_tokens * width + 2 * side**2),
        seconds=2 * num_tokens * width * side / 50e9 + 4.5e-11 * side**3,
        instead="use keep_ratio or keep_tokens",
    )
