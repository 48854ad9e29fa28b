"""What the calls of one thread have learnt of an attached model so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from foveate.carve.engine.decide import Group
from foveate.carve.engine.explicit_mask import ExplicitMask
from foveate.carve.engine.forward_pass import ForwardPass
from foveate.carve.engine.host_prompt import HostPrompt
from foveate.carve.engine.image_state import ImagePlan
from foveate.carve.engine.labels import Labels
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.short_prompt import ShortPrompt


@dataclass
class Generation:
    """One `generate`, or one prompt that the caller feeds again and again without a cache.

    Args:
        num_prompts: rows that it was given, before beams; None where it was not said.
        replay: decisions on its prompt, for a generation without a cache.
        has_begun: whether its prompt has been read.
    """

    num_prompts: int | None = None
    has_begun: bool = False
    replay: Replay | None = None


class Calls(threading.local):
    """State of one thread; another thread's calls see another.

    Attributes:
        forward: the call of the base model that runs now.
        generation: that it belongs to, if any.
        labels: of the host model's call that runs now, until the base model takes them over.
        prompt: that the host model is about to feed to the language model inside it, likewise.
        plans, decisions: of the last prefill.
        next_serial: number of the next image, see Run.
        explicit_mask: the caller's; None where none was given.
        has_own_mask: whether this thread said what the mask is, beside the run's owner.
        is_owner: whether this thread made the run.
    """

    def __init__(self) -> None:
        self.forward: ForwardPass | ShortPrompt | None = None
        self.generation: Generation | None = None
        self.labels: Labels | None = None
        self.prompt: HostPrompt | None = None
        self.plans: list[ImagePlan] = []
        self.decisions: dict[int, list[Group]] = {}
        self.next_serial: int | None = None
        self.explicit_mask: ExplicitMask | None = None
        self.has_own_mask = False
        self.is_owner = False

    def forget(self) -> None:
        """Give up what belongs to calls; the last prefill's plans stay."""
        self.forward = self.generation = self.labels = self.prompt = None
