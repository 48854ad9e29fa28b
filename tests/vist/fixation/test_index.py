"""The index of a document: which patches show a segment, what is read, saved and asked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from foveate.errors import InputError
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.vist.fixation.index import above_middle, index_scores, patches_of_segments
from foveate.vist.fixation.segments import segment_starts
from foveate.vist.index_file import INDEX, load_index, save_index
from foveate.vist.latents.index_head import IndexConfig, IndexHead
from foveate.vist.latents.memory import concat
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist
from tests.vist.encoder.sighted import SightedEncoder

HIDDEN = tiny_vist.SIZES["hidden_size"]


def make_head(seed: int = 5, input_width: int = tiny_vist.FEATURES) -> IndexHead:
    torch.manual_seed(seed)
    sizes = {"input_width": input_width, "embedding_width": HIDDEN}
    return IndexHead(IndexConfig(**sizes, picture_inner=8, inner=8, heads=2, width=6)).eval()


@pytest.fixture(scope="module")
def llm() -> Any:
    return tiny_vist.model()


def word_tokenizer(text: str = tiny_vist.TEXT) -> Any:
    """Each word of the text, with the blanks before it, is a token of its own."""
    pieces = dict.fromkeys(re.findall(r"\s*\S+", text))
    numbers = {piece: 4 + i for i, piece in enumerate(pieces)}
    assert len(numbers) + 4 <= tiny_vist.VOCAB
    made = Tokenizer(models.WordLevel({"?": 3, **numbers}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*\S+"), "isolated")
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


@pytest.fixture
def vist(llm: Any) -> Vist:
    made = tiny_vist.vist(llm)
    made.tokenizer = word_tokenizer()
    made.parts.index = make_head()
    return made


@pytest.fixture
def sighted(llm: Any) -> Vist:
    """One whose encoder reads characters, so that it can do without the source."""
    plain = tiny_vist.vist(llm).config
    encoder = SightedEncoder(tiny_vist.TEXT, tiny_vist.TEXT * 4)
    config = replace(plain, resampler=replace(plain.resampler, input_width=encoder.width))
    torch.manual_seed(11)
    made = Vist(llm, word_tokenizer(), encoder, config)
    made.parts.index = make_head(input_width=encoder.width)
    return made


# --- places ---


def test_patches_are_those_of_the_segments_characters() -> None:
    style = tiny_vist.TinyEncoder().style
    text = tiny_vist.TEXT * 3  # several strips
    strips = Renderer(style).render(text)
    offsets = tokenise(tiny_vist.tokenizer(), text).offsets
    starts = segment_starts(text, offsets)
    patch, segment = patches_of_segments(strips, offsets, starts)
    chars = [*offsets[starts, 0].tolist(), len(text)]
    assert len(strips) > 1
    for number in (0, 3, len(starts) - 1):
        first, stop = chars[number], chars[number + 1]
        shown = {
            int(strips.char_page[c]) * style.patches + int(strips.char_patch[c])
            for c in range(first, stop)
        }
        assert set(patch[segment == number].tolist()) <= shown
        inked = {p for p in shown if strips.patch_mask.reshape(-1)[p]}
        assert set(patch[segment == number].tolist()) == inked
    assert set(segment.tolist()) == set(range(len(starts)))
    assert (np.diff(segment) >= 0).all()


# --- reading ---


def test_an_entry_is_the_pool_of_its_segments_tokens(vist: Vist) -> None:
    memory = vist.read(tiny_vist.TEXT)
    assert memory.index is not None
    assert memory.tokens is not None
    assert memory.segments is not None
    assert vist.parts.index is not None
    assert memory.index_side == "words"
    own = memory.tokens.tensor_split(memory.segments[1:])[2]
    group = torch.zeros(len(own), dtype=torch.int64)
    want = vist.parts.index.of_words(vist.embed(own), group, 1)[0]
    torch.testing.assert_close(memory.index[2], want)
    assert not torch.allclose(memory.index[1], want, atol=1e-3)


def test_without_a_text_an_entry_is_the_pool_of_its_segments_patches(sighted: Vist) -> None:
    vist = sighted
    memory = vist.read(tiny_vist.TEXT, tokens="read")
    assert memory.index_side == "pictures"
    assert memory.index is not None
    assert memory.segments is not None
    assert memory.index.shape == (len(memory.segments), 6)
    strips = Renderer(vist.encoder.style).render(tiny_vist.TEXT)
    mask = torch.from_numpy(strips.patch_mask)
    features = vist.encoder(torch.from_numpy(strips.pixels), mask).flatten(0, 1)
    offsets = tokenise(vist.tokenizer, tiny_vist.TEXT).offsets
    patch, segment = patches_of_segments(strips, offsets, memory.segments.numpy())
    own = features[torch.from_numpy(patch[segment == 2])]
    assert vist.parts.index is not None
    want = vist.parts.index.of_pictures(own, torch.zeros(len(own), dtype=torch.int64), 1)[0]
    torch.testing.assert_close(memory.index[2], want)
    assert not torch.allclose(memory.index[1], want, atol=1e-3)


@pytest.mark.parametrize("tokens", ["source", "read"])
def test_a_stream_has_the_index_of_the_whole(
    sighted: Vist, tokens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vist = sighted
    whole = vist.read(tiny_vist.TEXT * 4, tokens=tokens)
    monkeypatch.setattr("foveate.vist.run.read_document.PAGES_AT_A_TIME", 1)
    again = vist.read(tiny_vist.TEXT * 4, tokens=tokens)
    assert whole.index is not None
    assert again.index is not None
    torch.testing.assert_close(again.index, whole.index)


def test_without_a_head_there_is_no_index_and_latents_are_the_same(llm: Any, vist: Vist) -> None:
    plain = tiny_vist.vist(llm).read(tiny_vist.TEXT)
    assert plain.index is None
    assert torch.equal(plain.latents, vist.read(tiny_vist.TEXT).latents)


# --- asking ---


def test_scores_are_what_cosines_have_above_the_middle_one(vist: Vist) -> None:
    memory = concat([vist.read(tiny_vist.TEXT), vist.read(tiny_vist.TEXT[40:])])
    head = vist.parts.index
    assert head is not None
    assert memory.index is not None
    question = vist.embed(tiny_vist.ids(4))
    asked = head.of_words(question, torch.zeros(4, dtype=torch.int64), 1)[0]
    logits = memory.index @ asked / head.config.temperature
    want = (logits - logits.quantile(0.5)).clamp_min(0)
    assert int((want > 0).sum()) == len(want) // 2
    torch.testing.assert_close(index_scores(memory, head, question), want)
    # A constant says nothing of a segment.
    torch.testing.assert_close(above_middle(logits + 7), want, atol=1e-5, rtol=1e-5)


def test_a_segment_that_shows_nothing_is_never_meant(vist: Vist) -> None:
    memory = vist.read(tiny_vist.TEXT)
    head = vist.parts.index
    assert head is not None
    assert memory.index is not None
    entries = memory.index.clone()
    entries[1] = 0
    scores = index_scores(replace(memory, index=entries), head, vist.embed(tiny_vist.ids(4)))
    assert float(scores[1]) == 0
    asked = head.of_words(vist.embed(tiny_vist.ids(4)), torch.zeros(4, dtype=torch.int64), 1)[0]
    logits = torch.cat([entries[:1], entries[2:]]) @ asked / head.config.temperature
    torch.testing.assert_close(torch.cat([scores[:1], scores[2:]]), above_middle(logits))
    nothing = replace(memory, index=torch.zeros_like(entries))
    assert not index_scores(nothing, head, vist.embed(tiny_vist.ids(4))).any()


def test_what_cannot_be_asked_is_refused(vist: Vist) -> None:
    memory = vist.read(tiny_vist.TEXT)
    head = vist.parts.index
    assert head is not None
    assert memory.index is not None
    question = vist.embed(tiny_vist.ids(4))
    with pytest.raises(InputError, match="the memory has no index; read the document"):
        index_scores(replace(memory, index=None), head, question)
    with pytest.raises(InputError, match="index has width 4 and this head makes 6"):
        index_scores(replace(memory, index=memory.index[:, :4]), head, question)
    with pytest.raises(InputError, match=r"got a question \(0, 48\)"):
        index_scores(memory, head, question[:0])


def test_fixation_asks_the_index(vist: Vist) -> None:
    memory = vist.read(tiny_vist.TEXT)
    prompt = tiny_vist.ids(6)[None]
    with vist.attach(memory, fixate=0.5, question="Where is the lamp?") as run:
        vist.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=2)
    assert "index-words" in str(run.report)
    pictured = replace(memory, index_side="pictures")
    with vist.attach(pictured, fixate=0.5, question="Where is the lamp?") as run:
        vist.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=2)
    assert "index-pictures" in str(run.report)
    with vist.attach(replace(memory, index=None), fixate=0.5, question="Where is it?") as run:
        vist.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=2)
    assert "index" not in str(run.report)


def test_a_question_without_tokens_asks_no_index(
    vist: Vist, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = vist.read(tiny_vist.TEXT)
    tokenizer = vist.tokenizer

    class Deaf:
        def __call__(self, text: str, **options: Any) -> Any:
            is_asked = text.strip() == "lamp"
            return tokenizer("" if is_asked else text, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    monkeypatch.setattr(vist, "tokenizer", Deaf())
    prompt = tiny_vist.ids(6)[None]
    with vist.attach(memory, fixate=0.5, question="lamp") as run, torch.no_grad():
        vist.model(prompt, use_cache=False)
    assert run.report is not None
    assert "index" not in str(run.report)
    assert "words" in str(run.report)


def test_memories_found_by_words_and_by_pictures_do_not_join(sighted: Vist) -> None:
    vist = sighted
    text, seen = vist.read(tiny_vist.TEXT), vist.read(tiny_vist.TEXT, tokens="read")
    with pytest.raises(InputError, match=r"by words and by pictures.*tokens='read' too"):
        concat([text, seen])
    assert concat([text, replace(seen, index=None)]).index is None
    assert concat([seen, seen]).index_side == "pictures"
    with pytest.raises(InputError, match="index_side='smell'; use one of pictures, words"):
        replace(text, index_side="smell")


def test_a_memory_of_another_index_is_refused(vist: Vist) -> None:
    memory = vist.read(tiny_vist.TEXT)
    vist.parts.index = make_head(seed=6)
    with pytest.raises(InputError, match="made by other trained parts"):
        vist.attach(memory)


# --- files ---


def test_a_head_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = IndexHead(IndexConfig(input_width=64, embedding_width=96, temperature=0.1))
    save_index(first, tmp_path / INDEX, encoder="e", base="b")
    stored = load_file(tmp_path / INDEX)
    assert stored["pictures.up.weight"].dtype == torch.int8
    second = load_index(tmp_path / INDEX, encoder="e", base="b")
    assert second.config == first.config
    for name, weight in first.state_dict().items():
        gap = (second.state_dict()[name] - weight).abs().max()
        assert float(gap) <= float(weight.abs().max()) * 0.005, name


def test_a_vist_keeps_its_index(llm: Any, vist: Vist, tmp_path: Path) -> None:
    folder = vist.save_pretrained(tmp_path / "vist")
    assert not any(key.startswith("index.") for key in load_file(folder / "vist.safetensors"))
    options = {"tokenizer": word_tokenizer(), "encoder": tiny_vist.TinyEncoder()}
    again = Vist.from_pretrained(folder, base=llm, **options)
    assert again.parts.index is not None
    first, second = vist.read(tiny_vist.TEXT).index, again.read(tiny_vist.TEXT).index
    assert first is not None
    assert second is not None
    torch.testing.assert_close(second, first, atol=0.02, rtol=0)
    again.parts.index = None
    again.save_pretrained(folder)
    assert not (folder / INDEX).exists()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / INDEX
    head = make_head()
    save_index(head, path, encoder="1" * 64, base="2" * 64)
    with pytest.raises(InputError, match=r"another encoder \(111111111111, here 333333333333\)"):
        load_index(path, encoder="3" * 64)
    with pytest.raises(InputError, match="another language model"):
        load_index(path, base="3" * 64)
    with pytest.raises(InputError, match=r"widths \(12, 48\), and these models give \(12, 32\)"):
        load_index(path, widths=(12, 32))
    weights = load_file(path)
    save_file(weights, path)  # says nothing of itself
    with pytest.raises(InputError, match=r"no index written by foveate .*copy it again"):
        load_index(path)
    with torch.no_grad():
        head.words.out.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"words.out.weight of the index holds values"):
        save_index(head, path, encoder="", base="")
