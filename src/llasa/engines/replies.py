"""What servers of completions answer: seen to be ids and numbers, or made into errors for people.

What a server says is not trusted: it is shown bounded and without the key. Knows no dialect and no requests.
"""

import json
import math
from http.client import HTTPException
from typing import Any

from llasa.core import Ids
from llasa.errors import EngineBusy, EngineError
from llasa.web import Server


def failure(server: Server, found: str, todo: str, retryable: bool = False) -> EngineError:
    """Return the error that says what a server did."""
    return EngineError(f"Asking '{server.url}': found {found}. {todo}.", retryable)


def unreached(server: Server, error: OSError | HTTPException) -> EngineError:
    """Return the error for an answer that did not come."""
    if isinstance(error, TimeoutError):
        found, todo = (
            f"nothing new for {server.timeout_s:g} s",
            "See what the server does, or allow more time",
        )
    else:
        found = f"{type(error).__name__}: {server.shown(str(error).encode())}"
        todo = "See that the server runs, and correct the URL"
    return failure(server, found, todo, retryable=True)


def content(server: Server, status: int, data: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; EngineError tells what it is otherwise."""
    if status != 200:
        raise refused(server, status, data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise senseless(server, "no JSON", data) from error
    if not isinstance(found, dict):
        raise senseless(server, "no JSON object", data)
    if "error" in found:
        raise failure(server, f"that it failed: {server.shown(data)}", "Look into the server's log")
    return found


def refused(server: Server, status: int, answer: bytes) -> EngineError:
    """Return the error for a status that is not 200."""
    found = f"HTTP {status}: {server.shown(answer)}"
    if status in (429, 503):
        return EngineBusy(f"Asking '{server.url}': found {found}. Ask again later.")
    todo = {
        401: "Give the server's key in LLASA_ENGINE_KEY",
        403: "Give the server's key in LLASA_ENGINE_KEY",
        404: "Correct the URL, which mostly ends in /v1, and the model's name",
    }.get(status, "Look into the server's log" if status >= 500 else "Correct what it says")
    if 300 <= status < 400:
        todo = "Name the place it points to: redirects are not followed"
    return failure(server, found, todo)


def senseless(server: Server, what: str, found: object) -> EngineError:
    """Return the error for an answer that is not what such servers say."""
    shown = server.shown(found if isinstance(found, bytes) else json.dumps(found).encode())
    return failure(
        server, f"an answer with {what}: {shown}", "Ask a server that gives token ids as they come"
    )


def count_of(server: Server, value: object, name: str) -> int:
    """Return a value if it is a count of at least 1; EngineError names it otherwise."""
    if type(value) is not int or not 0 < value < 2**31:
        raise failure(
            server, f"no '{name}' among what it says of its model", "Serve one model with a newer server"
        )
    return value


def fields_of(value: object) -> dict[str, Any]:
    """Return a value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def ids_of(server: Server, value: object, event: object) -> Ids:
    """Return a value if it is ids; EngineError shows the event otherwise."""
    if not isinstance(value, list) or not all(type(i) is int and 0 <= i < 2**31 for i in value):
        raise senseless(server, "no token ids", event)
    return value


def logprobs_of(server: Server, value: object, count: int) -> list[float]:
    """Return a value if it is so many log-probabilities; EngineError shows it otherwise."""
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(isinstance(x, int | float) and math.isfinite(x) and x < 1e-3 for x in value)
    ):
        raise senseless(server, f"no {count} log-probabilities", value)
    return [min(float(x), 0.0) for x in value]
