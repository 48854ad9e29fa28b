"""Every mistake ends as one sentence on stderr, exit code 2, nothing on stdout, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from foveate.carve.method import METHODS
from foveate.carve.spec import parse_method
from foveate.cli.main import app
from foveate.cli.model import check_fits_embedded
from foveate.core.budget import Budget
from tests.cli.conftest import Foveate
from tests.cli.vlm_folder import tiny_processor
from tests.test_image_file import header_only_png

QUESTION = "what color is the shape?"


def refusal(foveate: Foveate, *arguments: object) -> str:
    """The message of a refused command."""
    result = foveate(*arguments, ok=False)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("foveate: ")
    return lines[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is not an image that can be read"),
        (b"not an image", "is not an image that can be read"),
        (header_only_png(60_000, 60_000), "above the limit of 64,000,000"),
        (header_only_png(9_000, 9_000), "above the limit of 64,000,000"),
        (header_only_png(90, 90), "damaged or cut off"),
    ],
)
def test_images(
    foveate: Foveate, tmp_path: Path, checkpoint: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    said = refusal(foveate, "ask", path, QUESTION, "--model", checkpoint)
    assert message in said
    assert "image.png" in said


def test_folder_as_image(foveate: Foveate, tmp_path: Path, checkpoint: Path) -> None:
    assert "is a folder" in refusal(foveate, "ask", tmp_path, QUESTION, "--model", checkpoint)


def test_question_forgotten(foveate: Foveate, picture: Path) -> None:
    assert "at least one image and, last, the question" in refusal(foveate, "ask", picture)
    assert "is a file; put the question last" in refusal(foveate, "ask", picture, picture)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("0", "keep_tokens=0 is below 1"),
        ("-4", "keep_tokens=-4 is below 1"),
        ("0%", "keep_ratio=0.0 is outside (0, 1]"),
        ("150%", "keep_ratio=1.5 is outside (0, 1]"),
        ("nan%", "keep_ratio=nan is no finite number; write e.g. keep_ratio=0.25"),
        ("many", "budget 'many' is not a count or a share"),
        ("", "budget '' is not a count or a share"),
        ("17", "keep_tokens=17 exceeds the 16 visual tokens of image 0"),
    ],
)
def test_budgets(
    foveate: Foveate, checkpoint: Path, picture: Path, keep: str, message: str
) -> None:
    said = refusal(foveate, "ask", picture, QUESTION, "--model", checkpoint, f"--keep={keep}")
    assert message in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "magic"), "unknown method 'magic'; choose one of "),
        (("--prune-layer", "4"), "prune_layer=4 is outside the 4 decoder layers"),
        (("--prune-layer", "0"), "prune_layer=0 has none"),
        (("--max-new-tokens", "0"), "max_new_tokens=0 is below 1"),
        (("--device", "abacus"), "device 'abacus' cannot be used here"),
        (("--overlay", "picture.xyz"), "picture 'picture.xyz' has no name of a picture"),
    ],
)
def test_options(
    foveate: Foveate,
    checkpoint: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(foveate, "ask", picture, QUESTION, "--model", checkpoint, *options)


def ask(foveate: Foveate, picture: Path, model: object) -> str:
    return refusal(foveate, "ask", picture, QUESTION, "--model", model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere/model", "does not exist"),
        ("owner/no-such-model", "neither a local folder nor found on the Hugging Face hub"),
        ("a b c", "neither a local folder nor found"),
    ],
)
def test_unknown_model(foveate: Foveate, picture: Path, name: str, message: str) -> None:
    assert message in ask(foveate, picture, name)


def test_folder_without_a_model(foveate: Foveate, picture: Path, tmp_path: Path) -> None:
    assert "has no config.json" in ask(foveate, picture, tmp_path)


def test_file_instead_of_a_folder(foveate: Foveate, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    said = ask(foveate, picture, tmp_path / "model.pt")
    assert "pickle file; only safetensors is loaded" in said
    assert "is a file" in ask(foveate, picture, picture)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickle_checkpoint_is_never_opened(
    foveate: Foveate, picture: Path, broken: Path, name: str
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('the pickle was opened')",)

    (broken / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, broken / name)
    said = ask(foveate, picture, broken)
    assert f"holds {name}, but only safetensors is loaded" in said


def test_folder_without_weights(foveate: Foveate, picture: Path, broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    assert "has no *.safetensors file" in ask(foveate, picture, broken)


def test_cut_off_weights(foveate: Foveate, picture: Path, broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be loaded" in ask(foveate, picture, broken)


def test_missing_weights_would_stay_random(foveate: Foveate, picture: Path, broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    del weights[next(name for name in weights if "layers.2.mlp.up_proj" in name)]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    said = ask(foveate, picture, broken)
    assert "lacks 1 weights" in said
    assert "layers.2.mlp.up_proj" in said


def test_weights_of_another_shape(foveate: Foveate, picture: Path, broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 40
    (broken / "config.json").write_text(json.dumps(config))
    assert "do not have the shapes" in ask(foveate, picture, broken)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json of"),
        ("{}", "config.json of"),
        ('{"model_type": "no_such_family"}', "config.json of"),
        ('{"model_type": "llava", "text_config": 3}', "config.json of"),
        (
            '{"model_type": "blip-2"}',
            "its generate() runs language_model.generate()",
        ),
        ('{"model_type": "llama"}', "'llama', which has no visual tokens"),
        ('{"model_type": "clip"}', "'clip', which has no visual tokens"),
    ],
)
def test_configs(foveate: Foveate, picture: Path, broken: Path, content: str, message: str) -> None:
    (broken / "config.json").write_text(content)
    assert message in ask(foveate, picture, broken)


def test_code_from_a_checkpoint_is_not_run(foveate: Foveate, picture: Path, broken: Path) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "own.py").write_text("raise SystemExit('code of the checkpoint was run')")
    assert "config.json of" in ask(foveate, picture, broken)


def test_text_only_model(foveate: Foveate, picture: Path, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    tiny_processor().save_pretrained(tmp_path / "text")
    assert "has no visual tokens to compress" in ask(foveate, picture, tmp_path / "text")


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_broken_processor(foveate: Foveate, picture: Path, broken: Path, name: str) -> None:
    (broken / name).write_text("{")
    assert "the processor of" in ask(foveate, picture, broken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "no-such-set"), "neither reading nor easy-vqa"),
        (("--limit", "0"), "limit=0 is below 1"),
        (("--methods", "tokencarve", "magic"), "unknown method 'magic'"),
        (("--keep", "25%", "200%"), "keep_ratio=2.0 is outside"),
        (("--keep", "400", "--limit", "2"), "keep_tokens=400 exceeds the 16"),
        (("--keep", "--limit", "2"), "--keep got no value"),
        (("--batch-size", "0"), "batch_size=0 is below 1"),
        (("--rounds", "-1"), "rounds=-1 is below 0"),
    ],
)
def test_compare(
    foveate: Foveate, checkpoint: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    said = refusal(
        foveate, "compare", "--model", checkpoint, "--output", tmp_path / "out", *options
    )
    assert message in said


def test_bad_line_of_a_data_file(foveate: Foveate, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "what?"}\n')
    said = refusal(foveate, "compare", "--model", checkpoint, "--data", tmp_path / "data.jsonl")
    assert "data.jsonl, line 1: 'image' is missing" in said


def test_unknown_command_and_option(foveate: Foveate) -> None:
    assert "No such command" in foveate("carve", ok=False).stderr
    assert "No such option" in foveate("methods", "--colour", ok=False).stderr


def test_main_exits_with_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from foveate.cli import main

    monkeypatch.setattr("sys.argv", ["foveate", "ask", "only-a-question"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("foveate: got 1 argument")
    assert captured.out == ""
    assert app.info.name == "foveate"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep", "500"), "keep_tokens=500 exceeds the 196 visual tokens of image 0"),
        (("--prune-layer", "99"), "prune_layer=99 is outside the"),
        (("--method", "fastv(prune_layer=99)"), "prune_layer=99 is outside the"),
        (("--method", "divprune:50%+tokencarve", "--keep", "500"), "keep_tokens=500 exceeds"),
    ],
)
def test_what_the_embedded_model_cannot_do_is_refused_before_it_is_loaded(
    foveate: Foveate,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("foveate.models.load.load_vlm", None)
    assert message in refusal(foveate, "ask", picture, QUESTION, *options)


def test_every_method_passes_the_check_that_it_passes_when_loaded() -> None:
    for name in METHODS:
        if name not in ("stack", "text-share"):
            check_fits_embedded(None, parse_method(name, Budget(keep_ratio=1.0)))
    check_fits_embedded("other/model", parse_method("fastv", Budget(keep_tokens=500)))
