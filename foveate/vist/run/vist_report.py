"""What a prompt with memories read, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.vist.fixation.report import Look


@dataclass(frozen=True, kw_only=True)
class VistReport:
    """What the last prompt read.

    Args:
        form: of the fusion.
        num_tokens: of the text behind each row's memory, 0 for none.
        num_latents: each row reads instead, beside the tokens that it looked at again.
        spans: positions each memory takes up; fewer than its tokens where it had to be scaled.
        window: positions the model has.
        kv_bytes: of the memories' keys and values, each memory counted for each row.
        kv_bytes_raw: what the tokens themselves would take.
        looks: what each row looked at again, None for none.
    """

    form: str
    num_tokens: tuple[int, ...]
    num_latents: tuple[int, ...]
    spans: tuple[int, ...]
    window: int
    kv_bytes: int
    kv_bytes_raw: int
    looks: tuple[Look | None, ...] = ()

    @property
    def is_scaled(self) -> bool:
        """Whether a document is longer than what the model's positions leave for it."""
        return any(s < n for s, n in zip(self.spans, self.num_tokens, strict=True))

    def __str__(self) -> str:
        lines = []
        for row, (tokens, latents, span) in enumerate(
            zip(self.num_tokens, self.num_latents, self.spans, strict=True)
        ):
            look = self.looks[row] if self.looks else None
            what = f"{tokens} tokens -> {latents} latents" if tokens else "no memory"
            if look is not None:
                what += f" + {look.num_raw} tokens looked at"
            if span < tokens:
                what += f", positions scaled to {span} to fit the model's {self.window}"
            lines.append(f"row {row}  {what}")
            if look is not None:
                lines += [f"  {line}" for line in str(look).splitlines()]
        lines.append(f"memory KV  {self.kv_bytes} B instead of {self.kv_bytes_raw} B ({self.form})")
        return "\n".join(lines)
