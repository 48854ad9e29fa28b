"""Clustering by density peaks: centres are dense, and far from anything denser."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.core.rank import top_k


def density_peaks(x: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Cluster with Euclidean distances, density from as many neighbours as there are clusters.

    density_i = exp(-mean over its nearest j, itself among them, of d_ij^2), d_ij = |x_i - x_j| /
    sqrt(D); a centre has one of the largest products of density and distance to anything denser.

    Args:
        x: [G, n, D].
        num_clusters: 1 <= num_clusters <= n.

    Returns:
        (centres [G, C] int64, ascending; owner [G, n]: the centre nearest to each point, of a
        centre itself).
    """
    x = x.float()
    distance = torch.cdist(x, x) / x.shape[-1] ** 0.5  # [G, n, n]
    n = distance.shape[-1]
    nearest = distance.topk(num_clusters, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()  # [G, n]
    # Ties in density go to the lower index, so that equals do not all count as peaks.
    order = torch.arange(n, device=x.device)
    denser = (density.unsqueeze(1) > density.unsqueeze(2)) | (
        (density.unsqueeze(1) == density.unsqueeze(2)) & (order[None, :] < order[:, None])
    )
    farthest = distance.flatten(1).amax(dim=-1)[:, None]  # of any two points
    to_denser = distance.masked_fill(~denser, torch.inf).amin(dim=-1)
    to_denser = torch.where(torch.isinf(to_denser), farthest, to_denser)
    centres = top_k(density * to_denser, num_clusters).sort(dim=-1).values
    near = distance.gather(2, centres.unsqueeze(1).expand(-1, n, -1)).argmin(dim=-1)
    owner = centres.gather(1, near).scatter(1, centres, centres)
    return centres, owner
