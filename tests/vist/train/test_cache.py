"""The cache gives back what was put in, and never what another configuration made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from foveate.errors import InputError
from foveate.vist.train.cache import FrozenCache

TENSORS = {"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}


def test_what_is_put_comes_back_rounded_now_and_later(tmp_path: Path) -> None:
    cache = FrozenCache(tmp_path, {"encoder": "a"})
    assert cache.get("k") is None
    put = cache.put("k", TENSORS)
    got = cache.get("k")
    assert got is not None
    assert put["x"].equal(got["x"])
    assert put["x"].dtype == torch.float16
    cache.flush()
    later = FrozenCache(tmp_path, {"encoder": "a"}).get("k")
    assert later is not None
    assert later["x"].equal(put["x"])


def test_another_configuration_is_another_cache(tmp_path: Path) -> None:
    cache = FrozenCache(tmp_path, {"encoder": "a"})
    cache.put("k", TENSORS)
    cache.flush()
    assert "k" not in FrozenCache(tmp_path, {"encoder": "b"})
    assert len(FrozenCache(tmp_path, {"encoder": "a"})) == 1


def test_shards_are_written_when_full_and_shared(tmp_path: Path) -> None:
    first = FrozenCache(tmp_path, {}, shard_bytes=50, writer=0)
    second = FrozenCache(tmp_path, {}, shard_bytes=50, writer=1)
    for i in range(4):
        (first, second)[i % 2].put(f"k{i}", TENSORS)
    first.flush()
    second.flush()
    assert len(list(first.folder.glob("*.safetensors"))) == 2
    assert len(FrozenCache(tmp_path, {})) == 4


def test_an_unfinished_shard_is_not_read(tmp_path: Path) -> None:
    cache = FrozenCache(tmp_path, {})
    (cache.folder / "000-x.123.tmp").write_bytes(b"half")
    assert len(FrozenCache(tmp_path, {})) == 0


def test_damage_is_named(tmp_path: Path) -> None:
    cache = FrozenCache(tmp_path, {"encoder": "a"})
    (cache.folder / "000-x.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"000-x\.safetensors is damaged"):
        FrozenCache(tmp_path, {"encoder": "a"})
    about = cache.folder / "about.json"
    about.write_text(json.dumps({"encoder": "c"}))
    with pytest.raises(InputError, match="does not describe this configuration"):
        FrozenCache(tmp_path, {"encoder": "a"})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache"):
        FrozenCache(tmp_path / "file", {})
