"""What a memory is made of: the tokens that the encoder read, not those of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveate.errors import InputError
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.vist.config import FusionConfig, GlanceConfig, VistConfig
from foveate.vist.encoder.labels import UNREADABLE, character_classes
from foveate.vist.latents.memory import UNREAD, Memory, concat
from foveate.vist.run import read_document
from foveate.vist.run.vist import Vist
from foveate.vist.train.tiny_models import tiny_tokenizer
from tests.vist import tiny_vist
from tests.vist.encoder.sighted import SightedEncoder

TEXT = "the eye reads strips of text, the eye reads them again; 17 naïve words — and more\n" * 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer([TEXT])


def pointed(tokenizer: Any, encoder: Any) -> Vist:
    torch.manual_seed(5)
    llm = tiny_vist.model("llama", vocab_size=400)
    width = llm.config.hidden_size
    glances = GlanceConfig(input_width=encoder.width, width=width, inner=16, heads=2,
                           num_latents=8, run=4, pack_width=8)  # fmt: skip
    config = VistConfig(resampler=glances, fusion=FusionConfig(lora_rank=2, projection="none"))
    return Vist(llm, tokenizer, encoder, config)


def members_of(vist: Vist, text: str) -> np.ndarray:
    """The own token of each latent."""
    strips = Renderer(vist.encoder.style).render(text)
    glances = vist.parts.glances(strips, tokenise(vist.tokenizer, text).offsets)
    return glances.members[..., 0][glances.mask].numpy()


def test_latents_start_as_the_tokens_that_were_read(tokenizer: Any) -> None:
    vist = pointed(tokenizer, SightedEncoder(TEXT))
    memory = vist.read(TEXT)
    ids = tokenise(tokenizer, TEXT).ids
    assert memory.tokens is not None
    assert memory.tokens.tolist() == ids.tolist()
    assert (memory.misread, memory.unreadable) == (0, 0)
    wanted = vist.embed(torch.from_numpy(ids[members_of(vist, TEXT)]))
    assert torch.equal(memory.latents, wanted)


def test_a_misread_sign_is_in_the_latents_and_is_counted(tokenizer: Any) -> None:
    """The source is not looked at where latents are made: they hold the sign that was read."""
    vist = pointed(tokenizer, SightedEncoder(TEXT, swaps={";": ","}))
    as_source, as_read = vist.read(TEXT), vist.read(TEXT, tokens="read")
    right, seen = tokenise(tokenizer, TEXT).ids, tokenise(tokenizer, TEXT.replace(";", ",")).ids
    assert len(right) == len(seen)
    assert as_source.misread == as_read.misread == TEXT.count(";")
    assert as_source.tokens is not None
    assert as_read.tokens is not None
    assert as_source.tokens.tolist() == right.tolist()
    assert as_read.tokens.tolist() == seen.tolist()
    members = members_of(vist, TEXT)
    assert torch.equal(as_source.latents, vist.embed(torch.from_numpy(seen[members])))
    assert torch.equal(as_source.latents, as_read.latents)


def test_what_cannot_be_read_is_said(tokenizer: Any) -> None:
    vist = pointed(tokenizer, SightedEncoder(TEXT, swaps={"7": "Ж"}))
    memory = vist.read(TEXT, tokens="read")
    assert memory.tokens is not None
    assert memory.unreadable == TEXT.count("7") == int((memory.tokens == UNREAD).sum())


def test_pictures_alone_are_read_as_their_text(tokenizer: Any) -> None:
    encoder = SightedEncoder(TEXT)
    vist = pointed(tokenizer, encoder)
    known = vist.read(TEXT, tokens="read")
    memory = vist.read_pictures(encoder.strips.pixels, encoder.strips.patch_mask)
    for name in ("latents", "positions", "tokens", "segments"):
        assert torch.equal(getattr(memory, name), getattr(known, name)), name
    assert memory.misread is None  # nobody knows what was drawn
    assert memory.unreadable == 0


def test_signs_that_are_guessed_are_counted_as_unread(tokenizer: Any) -> None:
    encoder = SightedEncoder(TEXT)
    vist = pointed(tokenizer, encoder)
    pixels, mask = encoder.strips.pixels, encoder.strips.patch_mask
    whole = vist.read_pictures(pixels, mask)
    sure = encoder.slot_logits

    def unsure(features: torch.Tensor) -> torch.Tensor:
        logits = sure(features)
        is_guess = features[..., None] == int(character_classes(";")[0])
        return torch.where(is_guess, logits / 3, logits)

    encoder.slot_logits = unsure  # type: ignore[method-assign]
    memory = vist.read_pictures(pixels, mask)
    assert memory.tokens is not None
    signs = len(tokenise(tokenizer, UNREADABLE).ids) * TEXT.count(";")
    assert memory.unreadable == int((memory.tokens == UNREAD).sum()) == signs > 0
    assert whole.unreadable == 0
    encoder.slot_logits = lambda features: sure(features) / 9  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"pictures show no character .* cannot make out"):
        vist.read_pictures(pixels, mask)


def test_a_stream_is_read_as_a_whole(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = TEXT * 12
    vist = pointed(tokenizer, SightedEncoder(long))
    whole = vist.read(long)
    monkeypatch.setattr(read_document, "WHOLE_CHARS", 4000)
    monkeypatch.setattr(read_document, "CHARS_AT_A_TIME", 3000)
    monkeypatch.setattr(read_document, "PAGES_AT_A_TIME", 2)
    parts = vist.read(long)
    assert parts.num_pages == whole.num_pages
    # A token across the border of two parts counts twice.
    assert 0 <= parts.num_tokens - whole.num_tokens < 10
    assert parts.misread == 0
    assert bool((parts.positions.diff() > 0).all())


def test_an_encoder_that_cannot_read_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"reads no characters .* use the embedded TextEncoder"):
        pointed(tokenizer, tiny_vist.TinyEncoder())
    plain = tiny_vist.vist(tiny_vist.model())
    with pytest.raises(InputError, match="TinyEncoder gives features and reads no characters"):
        plain.read("some text", tokens="read")
    memory = plain.read("some text")
    assert memory.misread is None
    assert memory.unreadable is None


def test_other_tokens_than_two_kinds_do_not_exist(tokenizer: Any) -> None:
    vist = pointed(tokenizer, SightedEncoder(TEXT))
    with pytest.raises(InputError, match="tokens='guessed' is unknown; use 'source' or 'read'"):
        vist.read(TEXT, tokens="guessed")  # type: ignore[arg-type]


def test_pictures_that_show_nothing_are_an_error(tokenizer: Any) -> None:
    encoder = SightedEncoder(" ")
    vist = pointed(tokenizer, encoder)
    mask = np.zeros_like(encoder.strips.patch_mask)
    with pytest.raises(InputError, match="show no character"):
        vist.read_pictures(encoder.strips.pixels, mask)


@pytest.mark.parametrize("text", [None, 5, b"text", ["one", None]])
def test_what_is_no_text_is_refused(tokenizer: Any, text: Any) -> None:
    with pytest.raises(InputError, match="give a text, or its pieces"):
        pointed(tokenizer, SightedEncoder()).read(text)


@pytest.mark.parametrize("count", [0, -1, True, 2.5, "3"])
def test_latents_are_counted_in_whole_numbers(tokenizer: Any, count: Any) -> None:
    with pytest.raises(InputError, match="use a whole number of at least 1"):
        pointed(tokenizer, SightedEncoder()).read(TEXT, count)


def test_pictures_that_are_none_are_refused(tokenizer: Any) -> None:
    strips = Renderer(SightedEncoder().style).render(TEXT)
    vist, pixels, mask = pointed(tokenizer, SightedEncoder()), strips.pixels, strips.patch_mask
    with pytest.raises(InputError, match="got no strips"):
        vist.read_pictures(pixels[:0], mask[:0])
    with pytest.raises(InputError, match="patch_mask as a list; give a NumPy array"):
        vist.read_pictures(pixels, mask.tolist())


def test_counts_are_saved_and_added_up(tokenizer: Any, tmp_path: Path) -> None:
    vist = pointed(tokenizer, SightedEncoder(TEXT, swaps={";": ","}))
    memory = vist.read(TEXT)
    memory.save(tmp_path / "m.safetensors")
    again = Memory.load(tmp_path / "m.safetensors")
    assert (again.misread, again.unreadable) == (memory.misread, 0)
    both = concat([memory, again])
    assert both.misread == 2 * TEXT.count(";")


def test_a_pointed_memory_is_read_by_the_model(tokenizer: Any) -> None:
    vist = pointed(tokenizer, SightedEncoder(TEXT))
    memory = vist.read(TEXT)
    prompt = tokenizer("the eye reads", return_tensors="pt")["input_ids"]
    with vist.attach(memory):
        out = vist.model.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert out.shape[1] == prompt.shape[1] + 4
