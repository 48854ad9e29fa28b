"""A Vist in folders and on the hub: its files, no others; a folder plays the hub."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from huggingface_hub import metadata_load

from foveate import Vist
from foveate.errors import InputError
from foveate.vist.index_file import INDEX
from foveate.vist.latents.index_head import IndexConfig, IndexHead
from foveate.vist.run import hub, load
from tests.vist import tiny_vist

FILES = ["README.md", "vist.json", "vist.safetensors"]
ASKED = ["README.md", INDEX, "vist.json", "vist.safetensors"]  # the index where there is one


class FakeHub:
    """Repositories as folders; stands in for HfApi and snapshot_download."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: dict[str, dict[str, Any]] = {}

    def __call__(self, **kwargs: Any) -> FakeHub:
        self.calls["HfApi"] = kwargs
        return self

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        self.calls["create_repo"] = kwargs
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return type("RepoUrl", (), {"repo_id": repo_id})

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None) -> bool:
        return (self.root / repo_id / filename).exists()

    def upload_folder(self, *, repo_id: str, folder_path: Path, **kwargs: Any) -> str:
        self.calls["upload_folder"] = kwargs
        for file in sorted(folder_path.iterdir()):
            if any(fnmatch.fnmatch(file.name, p) for p in kwargs["allow_patterns"]):
                shutil.copy(file, self.root / repo_id / file.name)
        return f"hub:{repo_id}/commit/1"

    def snapshot_download(self, repo_id: str, **kwargs: Any) -> str:
        self.calls["snapshot_download"] = kwargs
        return str(self.root / repo_id)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", made)
    monkeypatch.setattr(hub, "snapshot_download", made.snapshot_download)
    return made


@pytest.fixture(scope="module")
def llm() -> Any:
    return tiny_vist.model()


def load_again(name: str | Path, llm: Any, **options: Any) -> Vist:
    return Vist.from_pretrained(
        name,
        base=llm,
        tokenizer=tiny_vist.tokenizer(),
        encoder=tiny_vist.TinyEncoder(),
        **options,
    )


# --- the hub ---


def test_pushed_and_loaded_again(fake: FakeHub, llm: Any) -> None:
    first = tiny_vist.vist(llm, "lora")
    first.parts.half().float()  # what fp16 keeps
    url = first.push_to_hub(
        "me/vist", base="them/base", license="mit", private=True, token="t", branch="new",
        commit_message="Better", create_pr=True,
    )  # fmt: skip
    assert url == "hub:me/vist/commit/1"
    assert fake.calls["HfApi"] == {"token": "t"}
    assert fake.calls["create_repo"] == {"private": True, "exist_ok": True}
    sent = fake.calls["upload_folder"]
    assert sorted(sent.pop("allow_patterns")) == ASKED
    # What another Vist left there would be loaded with this one.
    assert sent.pop("delete_patterns") == [INDEX]
    assert sent == {"commit_message": "Better", "revision": "new", "create_pr": True}
    assert sorted(path.name for path in (fake.root / "me" / "vist").iterdir()) == FILES

    second = load_again("me/vist", llm, revision="new", token="t", force_download=True)
    asked = fake.calls["snapshot_download"]
    assert sorted(asked.pop("allow_patterns")) == ASKED
    assert asked == {
        "revision": "new", "token": "t", "force_download": True, "cache_dir": None,
        "local_files_only": False,
    }  # fmt: skip
    memory = first.read(tiny_vist.TEXT)
    assert torch.equal(second.read(tiny_vist.TEXT).latents, memory.latents)


def test_an_index_goes_along(fake: FakeHub, llm: Any) -> None:
    first = tiny_vist.vist(llm, "lora")
    sizes = {"input_width": tiny_vist.FEATURES, "embedding_width": 48}
    first.parts.index = IndexHead(IndexConfig(**sizes, inner=8, picture_inner=8, width=4)).eval()
    first.push_to_hub("me/indexed", base="them/base")
    assert fake.calls["upload_folder"]["delete_patterns"] is None
    second = load_again("me/indexed", llm)
    assert second.parts.index is not None
    want, got = first.read(tiny_vist.TEXT).index, second.read(tiny_vist.TEXT).index
    assert want is not None
    assert got is not None
    torch.testing.assert_close(got, want, atol=0.02, rtol=0)


def test_how_the_hub_is_reached_holds_for_the_base_too(
    fake: FakeHub, tmp_path: Path, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm.save_pretrained(tmp_path / "base")
    tiny_vist.vist(llm).save_pretrained(fake.root / "me" / "vist", base=str(tmp_path / "base"))
    seen: list[dict[str, Any]] = []

    def spy(name: str, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return tf.LlamaForCausalLM.from_pretrained(name)

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", spy)
    tokenizer, encoder = tiny_vist.tokenizer(), tiny_vist.TinyEncoder()
    Vist.from_pretrained(
        "me/vist", tokenizer=tokenizer, encoder=encoder, local_files_only=True, cache_dir="c",
        token="t",
    )  # fmt: skip
    access = {"local_files_only": True, "cache_dir": "c", "token": "t"}
    assert seen[0].items() >= access.items()
    assert (seen[0]["use_safetensors"], seen[0]["trust_remote_code"]) == (True, False)


def test_a_card_on_the_hub_stays_unless_asked(fake: FakeHub, llm: Any) -> None:
    card = fake.root / "me" / "vist" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("by hand")
    vist = tiny_vist.vist(llm)
    vist.push_to_hub("me/vist")
    assert card.read_text() == "by hand"
    assert "README.md" not in fake.calls["upload_folder"]["allow_patterns"]
    vist.push_to_hub("me/vist", overwrite_card=True)
    assert "Vist.from_pretrained(" in card.read_text()


def test_folders_of_this_machine_are_not_pushed(fake: FakeHub, llm: Any, tmp_path: Path) -> None:
    vist = tiny_vist.vist(llm)
    with pytest.raises(InputError, match=r"a folder that only this machine has; name the language"):
        vist.push_to_hub("me/vist", base=str(tmp_path))
    assert fake.calls == {}


def test_what_the_hub_does_not_have() -> None:
    # HF_HUB_OFFLINE is set for all tests.
    with pytest.raises(InputError, match=r"'me/none' is neither a folder nor found .* connection"):
        Vist.from_pretrained("me/none")
    with pytest.raises(InputError, match=r"'me/vist' cannot be pushed to .*hf auth login"):
        tiny_vist.vist(tiny_vist.model()).push_to_hub("me/vist")


def test_a_repository_without_a_vist(fake: FakeHub) -> None:
    with pytest.raises(InputError, match=r"'me/other' .* has no vist\.json, so it is no Vist"):
        Vist.from_pretrained("me/other")


@pytest.mark.parametrize("name", ["nothing", "./me/vist", "/me/vist", "a/b/c"])
def test_a_folder_that_is_not_there(fake: FakeHub, name: str) -> None:
    with pytest.raises(InputError, match=r"there is no folder .* or a hub id \(owner/name\)"):
        Vist.from_pretrained(name)
    assert fake.calls == {}


# --- folders ---


def test_the_card_says_what_it_is(tmp_path: Path, llm: Any) -> None:
    vist = tiny_vist.vist(llm)
    folder = vist.save_pretrained(tmp_path / "mine", base="them/base", license="apache-2.0")
    assert metadata_load(folder / "README.md") == {
        "library_name": "foveate",
        "license": "apache-2.0",
        "base_model": "them/base",
        "base_model_relation": "adapter",
        "tags": ["vist", "long-context", "context-compression"],
    }
    text = (folder / "README.md").read_text()
    assert "from foveate import Vist\n" in text
    assert 'vist = Vist.from_pretrained("mine", encoder=encoder)\n' in text
    assert json.loads((folder / "vist.json").read_text())["base"]["sha256"][:12] in text


def test_a_card_names_no_folder_as_base_model(tmp_path: Path, llm: Any) -> None:
    vist = tiny_vist.vist(llm)
    folder = vist.save_pretrained(tmp_path / "mine", base=str(tmp_path / "models" / "base"))
    assert set(metadata_load(folder / "README.md")) == {"library_name", "tags"}
    assert str(tmp_path) not in (folder / "README.md").read_text()
    vist.save_pretrained(tmp_path / "embedded", base="smollm2")
    header = metadata_load(tmp_path / "embedded" / "README.md")
    assert header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_card_in_the_folder_stays_unless_asked(tmp_path: Path, llm: Any) -> None:
    (tmp_path / "README.md").write_text("by hand")
    vist = tiny_vist.vist(llm)
    vist.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "by hand"
    vist.save_pretrained(tmp_path, overwrite_card=True)
    assert "library_name: foveate" in (tmp_path / "README.md").read_text()


def test_what_a_checkpoint_says_survives_loading_and_saving(tmp_path: Path, llm: Any) -> None:
    first = tiny_vist.vist(llm)
    first.save_pretrained(tmp_path / "a", base="them/base", training={"steps": 3})
    second = load_again(tmp_path / "a", llm)
    second.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/vist.json").read_text() == (tmp_path / "b/vist.json").read_text()
    # Another base than the one it came with is not called by that one's name.
    second.model.model.norm.weight.data += 0.5
    try:
        second.save_pretrained(tmp_path / "c")
    finally:
        second.model.model.norm.weight.data -= 0.5
    assert json.loads((tmp_path / "c/vist.json").read_text())["base"]["name"] == ""


def test_unknown_options_of_a_vision_tower_are_named(tmp_path: Path, llm: Any) -> None:
    folder = tiny_vist.vist(llm).save_pretrained(tmp_path / "v")
    about = json.loads((folder / "vist.json").read_text())
    about["encoder"] |= {"kind": "vision_tower", "name": "x/y", "options": {"blur": 2}}
    (folder / "vist.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"options blur of the vision tower"):
        Vist.from_pretrained(folder, base=llm, tokenizer=tiny_vist.tokenizer())
