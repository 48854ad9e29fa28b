"""`foveate eval vist icl`, `qa`, `recall` and `retrieval`: what far context answers, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.console import err
from foveate.cli.eval_options import Evaluation, numbers, share_of, shares, text_of
from foveate.cli.eval_output import split_list
from foveate.cli.eval_subjects import with_latents
from foveate.cli.options import MaxNewTokens, Share
from foveate.errors import InputError


def icl(
    data: Annotated[Path, typer.Option(help="Folder with one folder a data set.")],
    sets: Annotated[str, typer.Option(help="Comma-separated names; default: all.")] = "",
    raw: Annotated[int, typer.Option(help="Demonstrations in the prompt.")] = 2,
    far: Annotated[int, typer.Option(help="Demonstrations that are read far.")] = 18,
    limit: Annotated[int, typer.Option(help="Test items for each set and seed.")] = 250,
    seeds: Annotated[str, typer.Option(help="Of demonstrations and items.")] = "42,43,44",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep each set and seed in OUTPUT/icl-parts, and go on there."
        ),
    ] = False,
    share: Share = "0/1",
    length_rule: Annotated[
        str, typer.Option(help="Compare labels by mean or sum of token log-likelihoods.")
    ] = "mean",
    *,
    common: Evaluation,
) -> None:
    """In-context learning: a few demonstrations raw, the others far."""
    with err.status("Loading the libraries"):
        from foveate.measure.parts import Parts
        from foveate.tasks.icl import load_icl_sets
        from foveate.vist.eval.icl import IclSettings, evaluate_icl

    rule: Any = length_rule
    settings = IclSettings(
        raw=raw,
        far=far,
        items=limit,
        seeds=numbers(seeds, "--seeds"),
        rule=rule,
        **common.chosen,
    )
    found = load_icl_sets(data, split_list(sets))
    index, count = share_of(share)
    parts = Parts(folder=common.output / "icl-parts" if resume or count > 1 else None,
                  index=index, count=count)  # fmt: skip
    subjects, facts = common.load()
    common.run(
        lambda progress: evaluate_icl(
            found, subjects, settings, facts=facts, progress=progress, parts=parts
        )
    )


def qa(
    data: Annotated[Path, typer.Option(help="JSONL: question, answers, passages.")],
    raw: Annotated[int, typer.Option(help="Best passages, raw in the prompt.")] = 5,
    far: Annotated[int, typer.Option(help="Next passages, read far.")] = 10,
    limit: Annotated[int | None, typer.Option(help="Questions to ask.")] = None,
    max_new_tokens: MaxNewTokens = 16,
    *,
    common: Evaluation,
) -> None:
    """Open-domain questions with passages: the best raw, the next far."""
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.tasks.open_qa import load_open_qa
        from foveate.vist.eval.qa import QaSettings, evaluate_qa

    settings = QaSettings(
        raw=raw,
        far=far,
        limit=limit,
        max_new_tokens=max_new_tokens,
        **common.chosen,
    )
    questions = load_open_qa(data, need_passages=raw + far)
    subjects, facts = common.load()
    facts = {**facts, "data": public_name(str(data))}
    common.run(
        lambda progress: evaluate_qa(questions, subjects, settings, facts=facts, progress=progress)
    )


def recall(
    context: Annotated[str, typer.Option(help="Tokens of prose, e.g. 512,1024.")] = "512",
    latents: Annotated[str, typer.Option(help="Latents per strip.")] = "32,64,128",
    depths: Annotated[str, typer.Option(help="Places of the pair, 0 to 1.")] = "0.1,0.5,0.9",
    kinds: Annotated[str, typer.Option(help="Of values.")] = "words,numbers,hex",
    limit: Annotated[int, typer.Option(help="Items for each kind and depth.")] = 10,
    pairs: Annotated[int, typer.Option(help="Pairs in a text.")] = 4,
    filler: Annotated[
        Path | None, typer.Option(help="Text to hide them in; default: made up.")
    ] = None,
    *,
    common: Evaluation,
) -> None:
    """Synthetic key-value recall over the compression ratio."""
    with err.status("Loading the libraries"):
        from foveate.vist.eval.recall import RecallSettings, evaluate_recall

    chosen: Any = split_list(kinds)
    settings = RecallSettings(
        contexts=numbers(context, "--context"),
        latents=numbers(latents, "--latents"),
        depths=shares(depths, "--depths"),
        kinds=chosen,
        count=limit,
        pairs=pairs,
        filler=text_of(filler) if filler is not None else None,
        **common.chosen,
    )
    subjects, facts = common.load()
    made = {count: with_latents(subjects, count) for count in settings.latents}
    common.run(
        lambda progress: evaluate_recall(made.__getitem__, settings, facts=facts, progress=progress)
    )


def retrieval(
    data: Annotated[
        Path | None, typer.Option(help="JSONL: title, passage, question, answers.")
    ] = None,
    articles: Annotated[
        str, typer.Option(help="odd, even (numbered from 0 in the file) or all.")
    ] = "odd",
    wordnet: Annotated[
        Path | None,
        typer.Option(help="Folder of WordNet's data.* and index.*: adds reworded questions."),
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: another index, as a control.")
    ] = None,
    passages: Annotated[int, typer.Option(help="Of a document.")] = 25,
    meanings: Annotated[int, typer.Option(help="Documents of 100 meanings, with --wordnet.")] = 3,
    pairs: Annotated[
        int, typer.Option(help="Key-value documents of each kind and depth; 0 is none.")
    ] = 3,
    share: Annotated[
        str, typer.Option("--shares", help="Of the segments that may be looked at.")
    ] = "0.01,0.05,0.1",
    against: Annotated[str, typer.Option(help="Arms that the others are compared with.")] = "bm25",
    layer: Annotated[int, typer.Option(help="Of the rival's mean states.")] = 15,
    limit: Annotated[int | None, typer.Option(help="Questions of a kind.")] = None,
    *,
    common: Evaluation,
) -> None:
    """Which segment a question means: the index of pictures beside words and states."""
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.tasks.passages import load_passages
        from foveate.tasks.wordnet import WordNet
        from foveate.vist.eval.retrieval import RetrievalSettings, evaluate_retrieval
        from foveate.vist.eval.retrieval_sets import retrieval_sets
        from foveate.vist.eval.segment_scores import Scorers
        from foveate.vist.index_file import load_index

    settings = RetrievalSettings(
        shares=shares(share, "--shares"),
        limit=limit,
        against=split_list(against),
        **common.chosen,
    )
    part: Any = articles
    found = load_passages(data, part) if data is not None else []
    # The half of meanings that the shipped index was not trained on.
    words = WordNet(wordnet, half=1) if wordnet is not None else None
    subjects, facts = common.load()
    vist: Any = subjects.vist
    vist = vist.vist
    heads = {"": vist.parts.index} if vist.parts.index is not None else {}
    for text in index or []:
        name, separator, file = text.partition("=")
        if not (name and separator and file):
            raise InputError(
                f"--index {text!r} is not NAME=FILE, e.g. --index random=r.safetensors."
            )
        heads[name] = load_index(
            file,
            encoder=vist.about.encoder.sha256,
            base=vist.about.base.sha256,
            widths=(vist.encoder.width, vist.parts.shape.hidden_size),
        )
    sets = retrieval_sets(
        found,
        vist.tokenizer,
        wordnet=words,
        num_passages=passages,
        num_meanings=meanings,
        num_pairs=pairs,
        seed=common.seed,
    )
    if not sets:
        raise InputError("there is nothing to ask: give --data, --wordnet, or --pairs above 0.")
    facts |= {
        "data": public_name(str(data)) if data else None,
        "articles": articles,
        "wordnet": wordnet is not None,
        "passages": passages,
        "controls": sorted(name for name in heads if name),
    }
    scorers = Scorers(
        vist.model, vist.tokenizer, vist.encoder, heads, layer=layer, seed=common.seed
    )
    common.run(
        lambda progress: evaluate_retrieval(sets, scorers, settings, facts=facts, progress=progress)
    )
