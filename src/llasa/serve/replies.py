"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`.

Must not know: routes, what is served.
"""

import logging
import secrets
import traceback
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llasa.errors import EngineBusy, LlasaError

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """What went wrong. code: for programs; message: what was done, what was found, what to do."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class Refused(BaseModel):
    """The body of every error."""

    error: Problem


ANYWHERE = {
    400: "The request is no JSON or HTTP, or a value cannot be honoured: `param` names it.",
    401: "No key, or a wrong one.",
    403: "Another site's page or Host asks.",
    404: "There is no such thing.",
    405: "Not with this method.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    429: "Too much at once: see Retry-After.",
    500: "A bug; `code` is an id that is in the log too.",
}
_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}


def problems(**more: str) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route, as OpenAPI describes them: those of any route, and `_409="..."`."""
    told = ANYWHERE | {int(status[1:]): text for status, text in more.items()}
    return {
        status: {"model": Refused, "description": text, **({"headers": _RETRY} if status == 429 else {})}
        for status, text in sorted(told.items())
    }


def refusal(status: int, found: str, todo: str, code: str, param: str | None = None) -> JSONResponse:
    """Return the answer to a request that is not followed."""
    return reply(status, f"Answering a request: found {found}. {todo}.", code, param)


def reply(status: int, message: str, code: str, param: str | None = None, **headers: str) -> JSONResponse:
    """Return an error."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers)


def install(app: FastAPI, keyed: bool) -> None:
    """Let an application answer with such errors, whatever goes wrong in it, and describe them.

    keyed: whether a key is asked for.
    """
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(LlasaError, _known)
    app.add_exception_handler(Exception, _unknown)
    app.router.responses = problems()

    def described() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _described(app, keyed)
        return app.openapi_schema

    app.openapi = described


def _described(app: FastAPI, keyed: bool) -> dict[str, Any]:
    """Return the OpenAPI document, without the errors of FastAPI's own that are never sent."""
    found = get_openapi(title=app.title, version=version("llasa"), routes=app.routes)
    for path in found["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(unused, None)
    if keyed:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(key) for key in first["loc"] if key != "body")[:100]
    return refusal(400, f"{place or 'the body'}: {first['msg']}", "Correct it", "invalid", place or None)


def _refused(request: Request, error: Any) -> JSONResponse:
    found = (
        f"{request.method} of a place that is not there, or not so" if error.status_code in (404, 405) else ""
    )
    answer = refusal(error.status_code, found or str(error.detail), "See /openapi.json", "refused")
    if error.status_code == 405:
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """Return what may be asked of a path, over all its routes; Starlette tells those of one."""
    fits = (route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE)
    return {method for route in fits for method in getattr(route, "methods", None) or ()}


def _known(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, EngineBusy):
        return reply(429, str(error), "busy", **{"Retry-After": "1"})
    return reply(400 if isinstance(error, ValueError) else 502, str(error), type(error).__name__)


def _unknown(request: Request, error: Exception) -> JSONResponse:
    message, id = bug(error)
    return reply(500, message, id)


def bug(error: Exception) -> tuple[str, str]:
    """Log a bug, or a machine without memory, but nobody's text; return a message, and the id in both."""
    id = secrets.token_hex(6)
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("request %s failed: %s\n%s", id, type(error).__name__, where)
    return f"Answering a request: found {type(error).__name__}, id {id}. See the service's log.", id
