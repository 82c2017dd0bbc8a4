"""`llasa serve`: what others need over HTTP. Everything that can be refused is refused before it listens."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.model import Chosen, DtypeOption, EngineOption
from llasa.cli.terminal import CodecOption, examples, note
from llasa.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from llasa.bundle import Bundle
    from llasa.judge import JudgeBlock
    from llasa.recognizers.base import Recognizer
    from llasa.serve.guard import Guard, Rules
    from llasa.serve.judging import Service
    from llasa.serve.page import Studio
    from llasa.serve.speaking import Speakers
    from llasa.serve.speech_api import Desk

EPILOG = examples(
    "llasa serve",
    "curl http://127.0.0.1:8000/v1/audio/speech -H 'Content-Type: application/json' -o hello.mp3 "
    '-d \'{"model": "tts-1", "input": "Hello there.", "voice": "rufus"}\'',
    "LLASA_KEY=... llasa serve --bundle starter --bundle mine --host 0.0.0.0 --allow-host speech.home",
    "llasa serve --judge recipes/grpo/starter.toml",
)
NEEDED = ("fastapi", "uvicorn", "multipart", "prometheus_client", "websockets")
SPEECH_KEY = "LLASA_KEY"
SPEECH_PORT, JUDGE_PORT, MOST_REQUESTS, MOST_CANDIDATES = 8000, 8001, 64, 1024
WATCHED_S = 0.2
# PyTorch on CPUs keeps kernels for the last 1024 shapes, in each thread: gigabytes in a day. Few come again.
KERNELS = "LRU_CACHE_CAPACITY"


def serve(
    bundle: Annotated[list[str] | None, typer.Option(help="What speaks or judges; repeat to speak with "
                                                          "several, each by its name.")] = None,
    judge: Annotated[Path | None, typer.Option(help="Judge by this TOML, and do not speak.")] = None,
    codec: CodecOption = None,
    engine: EngineOption = "native",
    dtype: DtypeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a key in "
                                           "LLASA_KEY, with --judge in LLASA_JUDGE_KEY.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="8000, with --judge 8001; 0 takes a free one.",
                                             min=0, max=65535, show_default=False)] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which clients call this machine; repeat for more.")
    ] = None,
    speaking: Annotated[int, typer.Option(help="Requests that are spoken at once.", min=1)] = 8,
    waiting: Annotated[int | None, typer.Option(help="Requests that may wait (64), with --judge candidates "
                                                     "(1024); more are refused.", min=1)] = None,
    max_effort: Annotated[int, typer.Option(help="Candidates a segment that one may ask for.", min=1)] = 16,
    max_characters: Annotated[int, typer.Option(help="Longest text of a request.", min=1)] = 4096,
    consent: Annotated[
        bool, typer.Option(help="Refuse voices that have no statement of their speaker's consent.")
    ] = True,
    wyoming: Annotated[str | None, typer.Option(help="Speak to Home Assistant as well, at tcp://HOST:PORT "
                                                     "(10200 is usual); whoever reaches it may.")] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The studio page, at /.")] = True,
) -> None:  # fmt: skip
    """Speak for programs elsewhere, by OpenAI's API, and for people on a page; or judge for programs."""
    os.environ.setdefault(KERNELS, "64")
    for module in NEEDED:
        if find_spec(module) is None:
            raise MissingExtra("Serving", module, "serve")
    if judge is not None:
        from llasa.recipe import read_recipe
        from llasa.remote_judge import KEY_VARIABLE

        rules = _rules(host, allow_host or [], KEY_VARIABLE)
        block = read_recipe(judge).judge
        with _listening(host, JUDGE_PORT if port is None else port) as listener:
            _run_judge(_service(bundle, codec, block), listener, rules, waiting or MOST_CANDIDATES)
        return
    if wyoming is not None and find_spec("wyoming") is None:
        raise MissingExtra("Speaking to Home Assistant", "wyoming", "serve")
    rules = _rules(host, allow_host or [], SPEECH_KEY)
    with _listening(host, SPEECH_PORT if port is None else port) as listener:
        chosen = [Chosen(name, engine, dtype, codec, None) for name in bundle or ["starter"]]
        speakers = _speakers(chosen, max_effort, max_characters, consent)
        from llasa.serve.speech_api import Desk, Limits

        keys = len((rules.key or "").split()) + (wyoming is not None)
        desk = Desk.open(speakers, Limits(speaking, waiting or MOST_REQUESTS, max(keys, 1)))
        _run_speech(desk, listener, rules, wyoming, page)


def _rules(host: str, names: list[str], variable: str) -> "Rules":
    from llasa.serve.guard import LOOPBACK, Rules

    key = os.environ.get(variable, "").strip() or None
    if key is None and host not in LOOPBACK:
        found = f"the address {host}, which others reach, and no key"
        raise ConfigError(f"Serving: found {found}. Set {variable} to a long random word.")
    own = (*LOOPBACK, _in_url(host), socket.gethostname(), *names)
    return Rules(tuple(name.lower() for name in own), key)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listening(host: str, port: int) -> socket.socket:
    from llasa.serve.connections import listening

    try:
        return listening(host, port)
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise ConfigError(f"Serving on {host}:{port}: {found}. Choose another --host or --port.") from error


def _speakers(chosen: Sequence[Chosen], max_effort: int, max_characters: int, consent: bool) -> "Speakers":
    """Return the bundles, loaded: what is missing or wrong is told before anybody asks."""
    from llasa.serve.speaking import Speakers
    from llasa.synthesizer import Synthesizer

    if len(chosen) > 1 and chosen[0].engine != "native":
        found = f"the engine '{chosen[0].engine}' for {len(chosen)} bundles"
        raise ConfigError(f"Serving: found {found}. Start a service for each, or use the native engine.")
    loaded: dict[str, Synthesizer] = {}
    for one in chosen:
        speaker = one.opened()
        if speaker.bundle.name in loaded:
            found = f"found two bundles of the name '{speaker.bundle.name}'"
            raise ConfigError(f"Serving: {found}. Rename one: llasa export hf --help.")
        speaker.warm_up()
        loaded[speaker.bundle.name] = speaker
    return Speakers(loaded, max_effort, max_characters, consent)


def _run_speech(
    desk: "Desk", listener: socket.socket, rules: "Rules", wyoming: str | None, page: bool
) -> None:
    from llasa.serve.speech_api import make_app

    beside = [desk.watchdog.watch(), *([_at_home(wyoming, desk)] if wyoming else [])]
    also = f", for Home Assistant on {wyoming}" if wyoming else ""
    note(f"Speaking on {_url(listener)} ({', '.join(desk.speakers.speakers)}){also}. Stop with Ctrl-C.")
    studio = _studio(desk) if page else None
    _run(make_app(desk, rules, studio), listener, beside, studio.run() if studio else None)


async def _at_home(wyoming: str, desk: "Desk") -> None:
    from llasa.serve.wyoming import serve as serve_wyoming

    try:
        await serve_wyoming(wyoming, desk.speakers, desk.slots, desk.threads)
    except Exception as error:  # the task's edge
        raise ConfigError(f"Serving: {error}. Choose another --wyoming.") from error


def _studio(desk: "Desk") -> "Studio | None":
    if find_spec("gradio") is None:
        note(f"Without its page. {MissingExtra('The studio page', 'gradio', 'studio')}")
        return None
    from llasa.serve.page import Studio

    return Studio(desk)


def _service(names: list[str] | None, codec: str | None, block: "JudgeBlock") -> "Service":
    """Return the judge, loaded: what is missing or wrong is told before anybody asks."""
    from llasa.bundle import load_bundle
    from llasa.judge import build_judge
    from llasa.serve.judging import Service

    name, *others = names or ["starter"]
    if others:
        raise ConfigError(f"Serving verdicts: found {1 + len(others)} bundles. Name one.")
    bundle = load_bundle(name, codec=codec)
    judge = build_judge(block, bundle.parts)
    return Service(judge, block, bundle.name, _recognizers(bundle, block))


def _recognizers(bundle: "Bundle", block: "JudgeBlock") -> "dict[str, Callable[[], Recognizer]]":
    """Return the bundle's and the judge's own recognisers: a request's name loads nothing else."""
    extra: list[dict[str, Any]] = [part.model_extra or {} for part in block.scorers]
    heard_by = {str(options["recognizer"]) for options in extra if options.get("recognizer")}
    return {name: partial(bundle.recognizer, name) for name in {*heard_by, *bundle.manifest.recognizers}}


def _run_judge(service: "Service", listener: socket.socket, rules: "Rules", waiting: int) -> None:
    from llasa.serve.judge_api import make_app

    app, health = make_app(service, rules, most_waiting=waiting), service.health()
    note(f"Judging on {_url(listener)} (judge {health.digest}, codec {health.codec}). Stop with Ctrl-C.")
    _run(app, listener)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{_in_url(host)}:{port}"


def _run(
    app: "Guard",
    listener: socket.socket,
    beside: Sequence[Coroutine[Any, Any, None]] = (),
    page: Coroutine[Any, Any, None] | None = None,
) -> None:
    """Serve until a signal or the end of one of those beside it; a page that fails is done without."""
    import asyncio
    import signal

    from llasa.serve.connections import server

    serving = server(app)

    def ended(task: asyncio.Task[None]) -> None:
        serving.should_exit = True

    async def both() -> None:
        others = [asyncio.create_task(one) for one in beside]
        for other in others:
            other.add_done_callback(ended)
        async with _kept(page, serving):
            await serving.serve(sockets=[listener])
        for other in others:
            if not other.cancel() and (error := other.exception()):
                raise error

    # uvicorn ends what is under way, then raises the signal again: that was all that was asked for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    asyncio.run(both())


@asynccontextmanager
async def _kept(page: Coroutine[Any, Any, None] | None, server: Any) -> AsyncIterator[None]:
    """Run the page beside the block; if it cannot be loaded that is told, and the block goes on.

    It ends as soon as the server is asked to: the server waits for connections, and a page keeps some open.
    """
    import asyncio

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            found = f"{type(error).__name__}: {error}"
            note(f"Without its page. Loading it: {found}. Mend it with: pip install 'llasa[studio]'")

    async def watch(task: asyncio.Task[None]) -> None:
        while not server.should_exit:
            await asyncio.sleep(WATCHED_S)
        task.cancel()

    if page is None:
        yield
        return
    task = asyncio.create_task(page)
    task.add_done_callback(ended)
    watcher = asyncio.create_task(watch(task))
    try:
        yield
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.wait({task, watcher})
