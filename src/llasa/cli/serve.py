"""`llasa serve`: what others need over HTTP. Everything that can be refused is refused before it listens."""

import os
import socket
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.terminal import BundleOption, CodecOption, examples, note
from llasa.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from llasa.bundle import Bundle
    from llasa.judge import JudgeBlock
    from llasa.recognizers.base import Recognizer
    from llasa.serve.guard import Rules
    from llasa.serve.judging import Service

EPILOG = examples(
    "llasa serve --judge recipes/grpo/starter.toml",
    "CUDA_VISIBLE_DEVICES=1 llasa serve --judge recipe.toml --bundle HKUSTAudio/Llasa-1B",
    "LLASA_JUDGE_KEY=... llasa serve --judge recipe.toml --host 0.0.0.0 --allow-host gpu2",
    "curl http://127.0.0.1:8001/health",
)
NEEDED = ("fastapi", "uvicorn", "multipart", "prometheus_client")
DRAIN_S, MOST_CONNECTIONS = 10, 512


def serve(
    judge: Annotated[Path, typer.Option(help="TOML with the [judge] that gives the verdicts.")],
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; another than this machine's own needs "
                                           "a key in LLASA_JUDGE_KEY.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8001,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which clients call this machine; repeat for more.")
    ] = None,
    waiting: Annotated[int, typer.Option(help="Candidates that may wait; more are refused.", min=1)] = 1024,
) -> None:  # fmt: skip
    """Judge candidates for programs elsewhere: a judge and its recognisers as a service."""
    for module in NEEDED:
        if find_spec(module) is None:
            raise MissingExtra("Serving", module, "serve")
    from llasa.recipe import read_recipe

    rules = _rules(host, allow_host or [])
    block = read_recipe(judge).judge
    with _listening(host, port) as listener:
        _run(_service(bundle, codec, block), listener, rules, waiting)


def _rules(host: str, names: list[str]) -> "Rules":
    from llasa.remote_judge import KEY_VARIABLE
    from llasa.serve.guard import LOOPBACK, Rules

    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and host not in LOOPBACK:
        found = f"the address {host}, which others reach, and no key"
        raise ConfigError(f"Serving: found {found}. Set {KEY_VARIABLE} to a long random word.")
    own = (*LOOPBACK, _in_url(host), socket.gethostname(), *names)
    return Rules(tuple(name.lower() for name in own), key)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise ConfigError(f"Serving on {host}:{port}: {found}. Choose another --host or --port.") from error


def _service(name: str, codec: str | None, block: "JudgeBlock") -> "Service":
    """Return the judge, loaded: what is missing or wrong is told before anybody asks."""
    from llasa.bundle import load_bundle
    from llasa.judge import build_judge
    from llasa.serve.judging import Service

    bundle = load_bundle(name, codec=codec)
    judge = build_judge(block, bundle.parts)
    return Service(judge, block, bundle.name, _recognizers(bundle, block))


def _recognizers(bundle: "Bundle", block: "JudgeBlock") -> "dict[str, Callable[[], Recognizer]]":
    """Return the bundle's and the judge's own recognisers: a request's name loads nothing else."""
    extra: list[dict[str, Any]] = [part.model_extra or {} for part in block.scorers]
    heard_by = {str(options["recognizer"]) for options in extra if options.get("recognizer")}
    return {name: partial(bundle.recognizer, name) for name in {*heard_by, *bundle.manifest.recognizers}}


def _run(service: "Service", listener: socket.socket, rules: "Rules", waiting: int) -> None:
    import signal

    import uvicorn  # pyright: ignore[reportMissingImports]

    from llasa.serve.judge_api import make_app

    app = make_app(service, rules, most_waiting=waiting)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
        limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=DRAIN_S,
    )  # fmt: skip
    health = service.health()
    host, port = listener.getsockname()[:2]
    url = f"http://{_in_url(host)}:{port}"
    note(f"Judging on {url} (judge {health.digest}, codec {health.codec}). Stop with Ctrl-C.")
    # uvicorn ends what is under way, then raises the signal again: that was all that was asked for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
