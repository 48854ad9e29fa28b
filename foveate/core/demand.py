"""What a decision takes beside its input, told by arithmetic before it starts, and the limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from foveate.errors import MethodError

LONGEST_SECONDS = 15.0  # for one image: as long as a core takes for a few thousand tokens' eigh
LEAST_BYTES = 2**30  # below that nobody asks what is free


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Estimates, to within a factor of two.

    Args:
        what: the part that costs most, "a float64 eigendecomposition of 3584 x 3584".
        bytes: held at the peak for all images, the states themselves left out.
        seconds: for one image on one CPU core; 0 where the prefill takes far longer anyway.
        instead: what takes less, as an order: "use information_score='auto'".
    """

    what: str = ""
    bytes: int = 0
    seconds: float = 0.0
    instead: str = "send fewer or smaller images at a time"


def check_demand(
    demand: Demand, *, method: str, num_images: int, num_tokens: int, device: torch.device
) -> None:
    """Refuse what would not fit or not end, before it starts.

    Args:
        demand: of the method for these images.
        method: its name.
        num_images, num_tokens: G and N.
        device: where the images are.

    Raises:
        MethodError: more than LONGEST_SECONDS, or than the memory that is free.
    """
    images = f"{num_images} image{'s' if num_images > 1 else ''} of {num_tokens:,} tokens"
    needs = f"{method} needs {demand.what} for {images}"
    if demand.seconds > LONGEST_SECONDS:
        raise MethodError(
            f"{needs}: about {demand.seconds:.0f} s each on one CPU core and "
            f"{demand.bytes / 1e9:.1f} GB in all, above the limit of {LONGEST_SECONDS:.0f} s; "
            f"{demand.instead}."
        )
    if demand.bytes < LEAST_BYTES:
        return
    free = free_bytes(device)
    if free is not None and demand.bytes > free:
        raise MethodError(
            f"{needs}: about {demand.bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on "
            f"{device.type}; {demand.instead}."
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had on the device; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + unused
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    (available,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(available)
