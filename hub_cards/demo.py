"""A page on which a recording is dropped, or made with the microphone, and judged: python -m hub_cards.demo
--model MODEL. It is served on this machine only, keeps nothing, and asks the internet for nothing but a model
of the Hub."""

import argparse
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event
from types import ModuleType


logger = logging.getLogger(__name__)
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Liberation Sans", "Arial", "sans-serif"]
UPLOAD_SECONDS = 60  # after which Gradio deletes what was sent, and looks for it


@dataclass(frozen=True)
class Limits:
    """What the page takes at most."""

    megabytes: int = field(default=200, metadata={"help": "size of a file"})
    minutes: int = field(default=60, metadata={"help": "length of a recording"})
    people: int = field(default=20, metadata={"help": "who wait for an answer at once"})


def take(upload: str) -> str:
    """Give a file that was sent a name of its own: Gradio names files by their content, so that two people
    who send the same one share it. Its own copy it deletes soon, whether there is an answer or not."""
    own = Path(mkdtemp(prefix="waiting-", dir=os.environ["GRADIO_TEMP_DIR"])) / Path(upload).name
    try:
        os.link(upload, own)
    except FileNotFoundError:
        raise import_gradio().Error("The connection is too slow: the file is gone again.") from None
    return str(own)


def discard(own: str | None) -> None:
    """Delete what [`take`] named, once it has its answer or nobody waits for one any more."""
    if own is not None:
        shutil.rmtree(Path(own).parent, ignore_errors=True)


@contextmanager
def open_page(
    model: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    limits: Limits = Limits(),
    port: int | None = None,
) -> Iterator[str]:
    """
    The address of the page, which is served as long as the context lasts.

    Args:
        model: see [`~processing.models.load_countermeasure`], also for `revision` and `trust_remote_code`.
        port: by default the first that is free from 7860 on.

    Raises:
        ImportError: Gradio is not installed.
        FileNotFoundError, ValueError: no trained model, or a damaged one.
        OSError: the port is in use.
    """
    with TemporaryDirectory(prefix="demo-") as temporary:
        os.environ["GRADIO_TEMP_DIR"] = temporary  # where it keeps uploads
        gradio = import_gradio()
        page = build_page(gradio, model, revision, trust_remote_code, limits)
        _, address, _ = page.queue(max_size=limits.people).launch(
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            server_port=port,
            max_file_size=limits.megabytes * 1_000_000,
            allowed_paths=[],
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            theme=gradio.themes.Default(font=FONTS),
        )
        try:
            yield address
        finally:
            page.close()


def serve(model: str, **options) -> None:
    """Serve the page of [`open_page`] until the process is stopped, by SIGTERM or Ctrl+C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that uploads are deleted
    with open_page(model, **options) as address:
        print(f"Open {address} in a browser. Ctrl+C stops the page.", flush=True)
        Event().wait()


def import_gradio() -> ModuleType:
    """ImportError with the remedy, where it is not installed."""
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f'{error}. Install what the page needs by pip install -e ".[demo]".') from error
    return gradio


async def take_upload(file: str) -> str:
    """Take an upload from where it is; ValueError: a web address, from which Gradio would fetch a file."""
    if "://" in str(file):
        raise ValueError(f"Only files that were sent are taken, and not {file}.")
    return str(file)


def build_page(gradio: ModuleType, model: str, revision: str | None, trust_remote_code: bool, limits: Limits):
    """The page as `gradio.Blocks`; loads the model."""
    import torch  # which takes seconds
    from accelerate import PartialState

    import modeling  # noqa: F401  registers the architectures
    from processing.machine import share_out_cores
    from processing.models import load_countermeasure

    from .demo_answer import answer
    from .templates import render_template

    shown = gradio.Progress(track_tqdm=True)  # it changes tqdm, so there must be no bar yet
    share_out_cores(None, PartialState(cpu=not torch.accelerator.is_available()).device)
    countermeasure = load_countermeasure(model, revision=revision, trust_remote_code=trust_remote_code)

    def respond(own: str, progress=shown) -> tuple[None, str]:
        """The answer, and nothing any more where the file was dropped."""
        try:
            return None, answer(Path(own), countermeasure, 60 * limits.minutes)
        except Exception:  # whatever it is: the person at the page is told, and its owner sees why
            logger.exception("No answer on a recording")
            raise gradio.Error("The page has failed, and its owner can see why. Try another file.") from None
        finally:
            discard(own)

    options = {"title": "Human or synthetic speech?", "analytics_enabled": False}
    with gradio.Blocks(delete_cache=(UPLOAD_SECONDS, UPLOAD_SECONDS), **options) as page:
        gradio.HTML(
            render_template(
                "demo_page.html",
                where=model,
                remedy="calibrate the model again",
                model=countermeasure.name,
                calibration=countermeasure.calibration,
                limits=limits,
            )
        )
        with gradio.Tab("File"):
            file = gradio.File(label="Recording", height=160)
        with gradio.Tab("Microphone"):
            microphone = gradio.Audio(sources=["microphone"], type="filepath", label="Recording")
        said = gradio.HTML()
        file.async_move_resource_to_block_cache = microphone.async_move_resource_to_block_cache = take_upload
        own = gradio.State(delete_callback=discard)  # an hour after somebody has left the page
        for source, event in ((file, file.upload), (microphone, microphone.stop_recording)):
            taken = event(take, source, own, queue=False, show_progress="hidden", api_visibility="private")
            answering = {"concurrency_id": "model", "api_visibility": "private"}
            taken.then(respond, own, [source, said], **answering)
    return page


def main(argv: list[str]) -> None:
    """Serve the page that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.demo", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model, or its id on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run the code that comes with the model"
    )
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    for limit in fields(Limits):
        about = f"{limit.metadata['help']} (default: %(default)s)"
        parser.add_argument(f"--max_{limit.name}", metavar="N", type=int, default=limit.default, help=about)
    args = vars(parser.parse_args(argv))
    try:
        limits = Limits(**{limit.name: args.pop(f"max_{limit.name}") for limit in fields(Limits)})
        serve(args.pop("model"), limits=limits, **args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    except KeyboardInterrupt:
        print("Stopped; nothing of what was sent is kept.")


if __name__ == "__main__":
    main(sys.argv[1:])
