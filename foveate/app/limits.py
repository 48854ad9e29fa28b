"""What the playground takes: sizes of files, images and texts, each refused with a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from foveate.errors import ConfigError, InputError, check_least
from foveate.image_file import open_image

__all__ = ["Limits"]

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one request.

    Args:
        file_bytes: of an uploaded file.
        folder_bytes: of all uploads together.
        pixels: of an image, checked on its header before anything is decoded.
        question_chars: of a question.
        text_chars: of a long text.
        new_tokens: of an answer.

    Raises:
        ConfigError: a limit below 1.
    """

    file_bytes: int = 10 * MB
    folder_bytes: int = 200 * MB
    pixels: int = 20_000_000
    question_chars: int = 1_000
    text_chars: int = 100_000
    new_tokens: int = 64

    def __post_init__(self) -> None:
        check_least(ConfigError, self, **dict.fromkeys(vars(self), 1))

    def image(self, path: str | Path | None) -> Image.Image:
        """The image of an uploaded file.

        Raises:
            InputError: there is none, or it is too large, no image, or damaged.
        """
        if path is None:
            raise InputError("there is no image; drop one, or pick a bundled example.")
        self._size(Path(path))
        return open_image(path, max_pixels=self.pixels)

    def question(self, text: str) -> str:
        """The question without blanks around it.

        Raises:
            InputError: it is empty or too long.
        """
        cleaned = (text or "").strip()
        if not cleaned:
            raise InputError("the question is empty; ask something about the image or text.")
        return self._length("question", cleaned, self.question_chars)

    def text(self, text: str) -> str:
        """A long text.

        Raises:
            InputError: it is empty or too long.
        """
        if not (text or "").strip():
            raise InputError("the text is empty; paste one, drop a file, or pick an example.")
        return self._length("text", text, self.text_chars)

    def text_file(self, path: str | Path) -> str:
        """The text of an uploaded file.

        Raises:
            InputError: it is too large, empty, too long or not UTF-8.
        """
        from foveate.text_image.text_file import read_text_file

        self._size(Path(path))
        return self.text("".join(read_text_file(str(path), "utf-8")))

    def answer_length(self, count: float) -> int:
        """The longest answer as a whole number.

        Raises:
            InputError: it is below 1 or above the limit.
        """
        if not 1 <= count <= self.new_tokens:
            raise InputError(
                f"the longest answer is {count:g} tokens; choose 1 to {self.new_tokens}."
            )
        return int(count)

    def _size(self, path: Path) -> None:
        size = path.stat().st_size if path.is_file() else 0
        if size > self.file_bytes:
            raise InputError(
                f"the file has {size / MB:.1f} MB, above the limit of {self.file_bytes / MB:g} MB; "
                "make it smaller, or start the playground with a larger --max-upload."
            )

    @staticmethod
    def _length(name: str, text: str, most: int) -> str:
        if len(text) > most:
            raise InputError(
                f"the {name} has {len(text):,} characters, above the limit of {most:,}; shorten it."
            )
        return text
