"""A profile from a stranger: nothing in it is run, and sizes, keys and depths are checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import foveate
from foveate.carve.profile import load_profile
from foveate.errors import InputError

GOOD = "\n".join(
    [
        "format = 1",
        '[method]\nname = "divprune"\nkeep_ratio = 0.5',
        '[model]\nname = "a"\ntype = "llava"\nweights = "0"',
        "[evidence]\n[versions]",
    ]
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("format = 1", "format = 2", "has the format 2, and this version of foveate reads 1"),
        ("format = 1", "format = true", "has the format True"),
        ("format = 1", "", "lacks or misnames format"),
        ("[evidence]", "[evidences]", "lacks or misnames evidences, evidence"),
        ('"divprune"', '"os:System"', "names 'os:System', code that Python would import"),
        ('"divprune"', '"two-stage"\nfirst = "this:That"', "code that Python would import"),
        ('"divprune"', '"no-such"', "unknown method 'no-such'"),
        ('"divprune"', '"divprune"\nfoo = 1', "divprune has no setting 'foo'"),
        ('"divprune"', '"divprune"\nunset = 3', "unset is no list of names"),
        ('name = "divprune"', "", "a method has no name"),
        ("keep_ratio = 0.5", "keep_ratio = 5.0", "keep_ratio=5.0 is outside"),
        ("keep_ratio = 0.5", 'keep_ratio = "a"', "keep_ratio='a' is no finite number"),
        ("keep_ratio = 0.5", "keep_ratio = 1979-05-27", "is no finite number"),
        ('type = "llava"', "type = 3", "model takes the texts name, type and weights"),
        ('type = "llava"', 'typ = "llava"', "model takes the texts name, type and weights"),
        ("[evidence]", "[evidence]\na = [1]", "evidence holds something that is no plain value"),
        ("[versions]", "[versions]\na = 1", "versions holds something that is no plain value"),
        ("format = 1", "format = 1\nformat = 1", "is no TOML"),
        ("[evidence]", f"[evidence]\na = {'[' * 9}{']' * 9}", "nested more than 6 deep"),
        ("[evidence]", f"[evidence]\na = {'[' * 9000}", "nested too deeply"),
        ("[evidence]", f"[evidence]\na = '{'x' * 3000}'", "a text of 3,000 characters"),
        ("[evidence]", f"[evidence]\na = [{'1,' * 999}]", "999 entries in one place"),
        ("[evidence]", f"[evidence]\na = '{'x' * 99999}'", "more than 65,536 bytes"),
    ],
)
def test_a_strangers_profile(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(GOOD)
    assert load_profile(path).method == foveate.DivPrune(keep_ratio=0.5)
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(foveate.FoveateError, match=words):
        load_profile(path)


def test_a_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_profile(tmp_path / "a\0b.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load_profile(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"cannot be read|is a folder"):
        load_profile(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="devices as on Unix")
def test_an_endless_profile() -> None:
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        load_profile("/dev/zero")
