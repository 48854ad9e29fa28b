"""`foveate play`: a local web page that shows what a model keeps."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli.console import err, out
from foveate.cli.method import check_profile, profile_instead
from foveate.cli.options import Device, Profile
from foveate.errors import FoveateError, InputError

if TYPE_CHECKING:
    import foveate
    from foveate.app.carve import Carver
    from foveate.app.read import TextReader

MOST_SIZE = 100_000  # MB, megapixels
INSTALL = "run `make play` in a clone, or pip install 'foveate[play]'"


def play(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Vision-language model: local folder or hub id; default: the embedded one.",
        ),
    ] = None,
    vist: Annotated[
        Path | None, typer.Option(help="Vist of the Read tab: folder or hub id; default: embedded.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method to offer beside those of `foveate methods`: package.module:Class, "
            "settings in brackets, stages joined by +. May be repeated."
        ),
    ] = None,
    profile: Profile = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to bind to; the default is reached from here only.")
    ] = "127.0.0.1",
    max_upload: Annotated[float, typer.Option(help="Largest file, MB.")] = 10.0,
    max_pixels: Annotated[float, typer.Option(help="Largest image, megapixels.")] = 20.0,
    device: Device = "auto",
) -> None:
    """Open a playground in the browser: carve an image's tokens, read a long text as pictures."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError(f"the playground needs Gradio, which is not installed; {INSTALL}.")
    if not 0 <= port <= 65535:
        raise InputError(f"port {port} does not exist; choose 1 to 65535, or 0 for a free one.")
    # Read on import: nothing is reported, no version is looked up.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from foveate.app.limits import MB, Limits

    for option, size in (("--max-upload", max_upload), ("--max-pixels", max_pixels)):
        if not size <= MOST_SIZE:
            raise InputError(f"{option} {size:g} is no size; use one up to {MOST_SIZE:,}.")
    limits = Limits(file_bytes=int(max_upload * MB), pixels=int(max_pixels * 1e6))
    check_host(host)
    tuned = profile_instead(context, profile, "method")
    carver, reader, no_reader = load_models(
        model, vist, device, methods=method or (), profile=tuned
    )
    with err.status("Starting"):
        from foveate.app.guard import is_private
        from foveate.app.page import build_page
        from foveate.app.serve import launch
        from foveate.app.uploads import Uploads
    uploads = Uploads(most_bytes=limits.folder_bytes)
    # Uploads do not outlive the page, however it is ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        page = build_page(carver, reader, limits, uploads, no_reader=no_reader)
        if not is_private(host):
            err.print(
                f"[yellow]{host} may be reached by others, and there is no password: whoever "
                "reaches it can use the model and see nothing else of this machine.[/yellow]"
            )
        try:
            served = launch(page, limits, uploads, host=host, port=port)
        except OSError as error:
            raise InputError(
                f"{host}, port {port} cannot be used: another program has it, or the address is "
                "not this machine's; choose others with --host and --port."
            ) from error
        try:
            out.print(f"foveate play: {served.address}  (Ctrl-C ends it)", soft_wrap=True)
            served.wait()
        finally:
            served.close()
    finally:
        uploads.close()


def check_host(host: str) -> None:
    """Refuse, before anything is loaded, what is neither an address nor localhost."""
    if host == "localhost":
        return
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError as error:
        raise InputError(
            f"host {host!r} is no address; use 127.0.0.1, ::1, or an address of this machine."
        ) from error


def load_models(
    model: str | None,
    vist: Path | None,
    device: str,
    *,
    methods: Sequence[str] = (),
    profile: foveate.Profile | None = None,
) -> tuple[Carver, TextReader | None, str]:
    """Both models, warmed up, and why there is no reader where there is none."""
    import torch

    if model is None:
        # As in `foveate demo`: models so small gain nothing from threads that wait for each other.
        torch.set_num_threads(1)
    from foveate.cli.model import load_model

    vlm = load_model(model, device=device)
    check_profile(profile, vlm)
    with err.status("Warming up"):
        from foveate.app.carve import Carver
        from foveate.app.examples import image_examples
        from foveate.carve.registry import broken_packages

        carver = Carver(vlm, methods, profile)
        carver.warm_up(image_examples()[0].image)
    for sentence in broken_packages():
        err.print(sentence, markup=False, style="yellow")
    return carver, *load_reader(vist, device)


def load_reader(vist: Path | None, device: str) -> tuple[TextReader | None, str]:
    """The Read tab's model; a Vist that was asked for by name has to load."""
    from foveate.app.read import TextReader
    from foveate.cli.eval_subjects import load_vist

    try:
        with err.status("Loading the Vist (the first time converts its language model, a minute)"):
            reader = TextReader(load_vist(str(vist) if vist is not None else None, None, device))
    except FoveateError as error:
        if vist is not None:
            raise
        err.print(f"The Read tab is off: {error}", markup=False)
        return None, f"Reading is off: {error}"
    return reader, ""
