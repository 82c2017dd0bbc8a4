"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`.

Must not know: routes, what is served.
"""

import logging
import secrets
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llasa.errors import EngineBusy, LlasaError

_log = logging.getLogger(__name__)


def refusal(status: int, found: str, todo: str, code: str, param: str | None = None) -> JSONResponse:
    """Return the answer to a request that is not followed."""
    return reply(status, f"Answering a request: found {found}. {todo}.", code, param)


def reply(status: int, message: str, code: str, param: str | None = None, **headers: str) -> JSONResponse:
    """Return an error."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers)


def install(app: FastAPI) -> None:
    """Let an application answer with such errors, whatever goes wrong in it."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(LlasaError, _known)
    app.add_exception_handler(Exception, _unknown)


def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(key) for key in first["loc"] if key != "body")[:100]
    return refusal(400, f"{place or 'the body'}: {first['msg']}", "Correct it", "invalid", place or None)


def _refused(request: Request, error: Any) -> JSONResponse:
    found = (
        f"{request.method} of a place that is not there, or not so" if error.status_code in (404, 405) else ""
    )
    return refusal(error.status_code, found or str(error.detail), "See /openapi.json", "refused")


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
