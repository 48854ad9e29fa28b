"""`foveate eval vist questions`: real questions about long documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.console import err
from foveate.cli.eval_options import Evaluation, Resume, numbers, parts_of, shares
from foveate.cli.options import MaxNewTokens, Share
from foveate.errors import InputError


def questions(
    data: Annotated[
        Path, typer.Option(help="JSONL: title, passage, question, answers; ordered by article.")
    ],
    tokens: Annotated[str, typer.Option(help="Longest documents, e.g. 1000,4000.")] = "1000,4000",
    limit: Annotated[int, typer.Option(help="Questions for each length.")] = 120,
    articles: Annotated[
        str, typer.Option(help="Asked about: odd or even ones of the file, from 0, or all.")
    ] = "odd",
    paraphrases: Annotated[
        Path | None,
        typer.Option(help="JSONL: id, question in words that its passage does not hold."),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Entries of arms with a budget, as shares of the tokens.")
    ] = "0.1,0.25",
    rival_budgets: Annotated[str, typer.Option(help="More of them for bm25.")] = "0.05,0.5",
    prompt: Annotated[
        str, typer.Option(help="chat, plain, or auto: chat where the model has a template.")
    ] = "auto",
    max_new_tokens: MaxNewTokens = 24,
    resume: Resume = False,
    share: Share = "0/1",
    *,
    common: Evaluation,
) -> None:
    """Real questions about long documents: the right passage among others."""
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.tasks.long_questions import load_passage_questions, make_documents, reworded
        from foveate.vist.eval.question_prompt import asking
        from foveate.vist.eval.questions import QuestionSettings, evaluate_questions

    settings = QuestionSettings(
        budgets=shares(budgets, "--budgets"),
        rival_budgets=shares(rival_budgets, "--rival-budgets"),
        max_new_tokens=max_new_tokens,
        **common.chosen,
    )
    found = load_passage_questions(data)
    asked = reworded(found, paraphrases) if paraphrases is not None else found
    parts = parts_of(common, "questions", resume, share)
    subjects, facts = common.load()
    raw: Any = subjects.raw
    how = asking(raw.tokenizer, prompt)
    if how.head is not None:
        if common.head is not None:
            raise InputError("--head goes with --prompt plain; the chat template has its own.")
        subjects.set_frame(how.head, how.tail)
    half: Any = articles
    documents = {
        str(length): make_documents(
            asked,
            tokens=length,
            num_tokens=lambda text: len(subjects.raw.encode(text)),
            limit=limit,
            half=half,
            fillers=found,
            seed=common.seed,
        )
        for length in numbers(tokens, "--tokens")
    }
    facts = {
        **facts,
        "data": public_name(str(data)),
        "paraphrases": public_name(str(paraphrases)) if paraphrases is not None else None,
        "articles": articles,
        "prompt": how.name,
        "head_tokens": len(raw.head_ids),
    }
    common.run(
        lambda progress: evaluate_questions(
            documents,
            subjects,
            how.prompt_of,
            settings,
            facts=facts,
            progress=progress,
            parts=parts,
        )
    )
