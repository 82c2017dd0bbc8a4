"""How servers of completions are spoken to: vLLM and llama.cpp. Knows no threads and no requests of ours.

What a server says is not trusted: here it is seen to be ids and numbers, in `remote` to be what was asked.
"""

import json
import math
import re
from collections.abc import Generator, Iterator, Mapping
from functools import lru_cache
from http.client import HTTPException
from typing import Any, Protocol

from llasa.core import Ids, SamplingParams
from llasa.engines.sampling import stream_key
from llasa.errors import BundleError, ConfigError, EngineBusy, EngineError
from llasa.web import Call, Server

News = tuple[int, Ids, list[float]]  # candidate, ids drawn, their log-probabilities if they were asked for
_PADDING = 256  # rows of a model that no id of its tokenizer has are fewer
_COLDEST = 0.01  # vLLM draws at this temperature where a lower one is asked for


class Dialect(Protocol):
    """What differs from server to server.

    max_length: prompt and generated ids together. adapters: names that requests may give.
    """

    max_length: int
    adapters: tuple[str, ...]

    def check(self, params: SamplingParams) -> None:
        """Refuse what this server cannot do; ConfigError names it."""
        ...

    def parts(self, params: SamplingParams) -> list[range]:
        """Return the candidates of each HTTP request."""
        ...

    def draw(
        self, call: Call, prompt: Ids, params: SamplingParams, limit: int, candidates: range
    ) -> Generator[News, None, None]:
        """Yield what is drawn for some candidates, at most `limit` ids and a stop id each."""
        ...


def dialect(server: Server, model: str, vocab_size: int) -> Dialect:
    """Ask a server what it is and return how to speak to it.

    Raises:
        ConfigError: it is none of those known, or serves no such model.
        BundleError: its model has another vocabulary.
        EngineError: it gives no usable answer.
    """
    cards = _cards(server)
    if model not in cards:
        found = f"no model '{model}', but {', '.join(map(repr, cards)) or 'none'}"
        raise ConfigError(f"Asking '{server.url}' for its models: found {found}. Name one behind the '#'.")
    owner = cards[model].get("owned_by")
    if owner == "vllm":
        return Vllm(server, model, vocab_size, cards)
    if owner == "llamacpp":
        return LlamaServer(server, cards[model], vocab_size)
    raise ConfigError(
        f"Asking '{server.url}' what it is: found a server of '{owner}'. Use vLLM or llama.cpp's "
        "llama-server: it must take token ids, give token ids as they come, and draw from allowed ids only."
    )


def failure(server: Server, found: str, todo: str, retryable: bool = False) -> EngineError:
    """Return the error that says what a server did."""
    return EngineError(f"Generating with '{server.url}': found {found}. {todo}.", retryable)


def unreached(server: Server, error: OSError | HTTPException) -> EngineError:
    """Return the error for an answer that did not come."""
    if isinstance(error, TimeoutError):
        found, todo = (
            f"nothing new for {server.timeout_s:g} s",
            "See what the server does, or allow more time",
        )
    else:
        found, todo = f"{type(error).__name__}: {error}", "See that the server runs, and correct the URL"
    return failure(server, found, todo, retryable=True)


class Vllm:
    """vLLM: one HTTP request for all candidates.

    A candidate's seed is the request's plus its place in it, on their side as on ours, so that a later wave
    goes on where an earlier one ended. Log-probabilities are those of all ids, before temperature and allowed
    ids, unless the server runs with `--logprobs-mode processed_logprobs`. On a CPU, vLLM 0.32 runs requests
    without a LoRA module as if they had one while others have; on a GPU it has other kernels.

    Source: vLLM 0.32, `v1/engine/parallel_sampling.py`, `entrypoints/openai/completion/protocol.py`.
    """

    def __init__(
        self, server: Server, model: str, vocab_size: int, cards: Mapping[str, dict[str, Any]]
    ) -> None:
        self._server, self._model = server, model
        self.adapters = tuple(sorted(name for name, card in cards.items() if card.get("parent")))
        lengths = [cards[model].get("max_model_len"), *(card.get("max_model_len") for card in cards.values())]
        self.max_length = _count(server, next(filter(None, lengths), None), "max_model_len")
        self._listed = lru_cache(maxsize=8)(json.dumps)
        size = self._vocabulary()
        if size is not None:
            _check_vocabulary(server, vocab_size, size)
        self._all = None if size == vocab_size else tuple(range(vocab_size))

    def check(self, params: SamplingParams) -> None:
        """See `Dialect.check`."""
        if 0 < params.temperature < _COLDEST:
            raise ConfigError(
                f"Sampling: temperature is {params.temperature}, and vLLM takes it for {_COLDEST}. "
                f"Set it to 0 (greedy) or to {_COLDEST} or more."
            )

    def parts(self, params: SamplingParams) -> list[range]:
        """See `Dialect.parts`. vLLM draws no more than one greedy candidate for a request."""
        return _singly(params.n) if params.temperature == 0 else [range(params.n)]

    def draw(
        self, call: Call, prompt: Ids, params: SamplingParams, limit: int, candidates: range
    ) -> Generator[News, None, None]:
        """See `Dialect.draw`."""
        body = self._body(prompt, params, limit, candidates)
        for event in _events(self._server, call, self._server.path + "/completions", body):
            choices = event.get("choices")
            if not isinstance(choices, list):
                raise _senseless(self._server, "no choices", event)
            for choice in choices:
                yield self._news(choice, params.logprobs, candidates)

    def _body(self, prompt: Ids, params: SamplingParams, limit: int, candidates: range) -> bytes:
        fields = {
            "model": params.adapter or self._model,
            "prompt": prompt,
            "n": len(candidates),
            "seed": (stream_key(params.seed, 0) >> 2) + params.first + candidates.start,
            "max_tokens": limit,
            "min_tokens": min(params.min_tokens, limit),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            # Named, since a server's own defaults hold for what is not.
            "min_p": 0,
            "repetition_penalty": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stop_token_ids": params.stop_token_ids,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # no text is needed, and a server may have no tokenizer
            "logprobs": 0 if params.logprobs else None,  # of the drawn id alone
        }
        listed = self._listed(params.allowed_token_ids or self._all)
        return f'{json.dumps(fields)[:-1]}, "allowed_token_ids": {listed}}}'.encode()

    def _news(self, choice: Any, wanted: bool, candidates: range) -> News:
        place = choice.get("index") if isinstance(choice, dict) else None
        if type(place) is not int or not 0 <= place < len(candidates):
            raise _senseless(self._server, f"a choice that is none of {len(candidates)}", choice)
        ids = _ids(self._server, choice.get("token_ids"), choice)
        given = _fields(choice.get("logprobs"))
        logprobs = _logprobs(self._server, given.get("token_logprobs"), len(ids)) if wanted and ids else []
        return candidates[place], ids, logprobs

    def _vocabulary(self) -> int | None:
        """Ask for what cannot be, since newer servers' refusals tell the size of the vocabulary."""
        fields = {"model": self._model, "prompt": [0], "max_tokens": 1, "stop_token_ids": [2**31 - 1]}
        path, body = self._server.path + "/completions", json.dumps(fields).encode()
        status, answer = _asked(self._server, "POST", path, body)
        if status not in (200, 400):
            raise _refused(self._server, status, answer)
        told = re.search(rb"Vocabulary size: (\d+)", answer)
        return int(told[1]) if told else None


class LlamaServer:
    """llama.cpp's llama-server: one HTTP request a candidate, whose prompt it keeps from the last one.

    The ids that are not allowed are listed: 2 MB and 0.1 s a request for the codes of a Llasa vocabulary.
    Stop ids are seen here. Where one is drawn too early, the candidate goes on from there in another request
    in which they are banned, up to `min_tokens`: what is drawn is then distributed as if they had been banned
    from the first. Under top_k or top_p it would not be, so there they are.
    Log-probabilities are those of all ids, before temperature and allowed ids.

    Source: llama.cpp at 0c1e570, `tools/server`: `server-schema.cpp`, `server-context.cpp`.
    """

    adapters = ()

    def __init__(self, server: Server, card: Mapping[str, Any], vocab_size: int) -> None:
        self._server, self._vocab_size = server, vocab_size
        self._root = server.path.removesuffix("/v1")
        props = _json(server, *_asked(server, "GET", self._root + "/props"))
        settings = props.get("default_generation_settings")
        self.max_length = _count(server, _fields(settings).get("n_ctx"), "n_ctx")
        self._rows = _count(server, _fields(card.get("meta")).get("n_vocab"), "n_vocab")
        _check_vocabulary(server, vocab_size, self._rows)
        self._bans = lru_cache(maxsize=8)(self._banned)

    def check(self, params: SamplingParams) -> None:
        """See `Dialect.check`."""

    def parts(self, params: SamplingParams) -> list[range]:
        """See `Dialect.parts`."""
        return _singly(params.n)

    def draw(
        self, call: Call, prompt: Ids, params: SamplingParams, limit: int, candidates: range
    ) -> Generator[News, None, None]:
        """See `Dialect.draw`."""
        ids: Ids = []
        number, least = params.first + candidates.start, min(params.min_tokens, limit)
        ripe = least if params.top_k or params.top_p < 1 else 0
        early = True
        while early:
            young, early = len(ids) < ripe, False
            goal = ripe if young else limit
            for token_id, logprobs in self._drawn(call, prompt + ids, params, goal - len(ids), young, number):
                if token_id in params.stop_token_ids and len(ids) < least:
                    ripe, early = least, True
                    break
                ids.append(token_id)
                yield candidates.start, [token_id], logprobs
            early = early or (young and len(ids) == goal < limit)

    def _drawn(
        self, call: Call, prompt: Ids, params: SamplingParams, count: int, young: bool, number: int
    ) -> Iterator[tuple[int, list[float]]]:
        """Yield up to `count` ids after a prompt, stop ids with them unless the candidate is too young."""
        key = stream_key(stream_key(params.seed, number), len(prompt))
        fields = {
            "prompt": prompt,
            "seed": key >> 33,
            "n_predict": count,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            # What else there is does nothing, whatever the server's defaults are.
            "samplers": ["temperature", "top_k", "top_p"],
            "min_keep": 0,
            "mirostat": 0,
            "dynatemp_range": 0,
            "stream": True,
            "cache_prompt": True,
            "n_probs": int(params.logprobs),
            "response_fields": ["stop", "tokens", "tokens_predicted"],  # not all that was asked, once more
        }
        bans = self._bans(params.allowed_token_ids, params.stop_token_ids if young else ())
        body = f'{json.dumps(fields)[:-1]}, "logit_bias": {bans}}}'.encode()
        told = 0
        for event in _events(self._server, call, self._root + "/completion", body):
            ids = _ids(self._server, event.get("tokens"), event)
            told += len(ids)
            if event.get("tokens_predicted") != told:
                raise failure(
                    self._server,
                    f"{told} ids where {event.get('tokens_predicted')} were drawn",
                    "Allow no ids whose text is half a character: llama-server holds them back",
                )
            for token_id in ids:
                yield token_id, self._logprob(event) if params.logprobs else []

    def _logprob(self, event: dict[str, Any]) -> list[float]:
        told = event.get("completion_probabilities")
        values = (
            [part.get("logprob") for part in told if isinstance(part, dict)]
            if isinstance(told, list)
            else None
        )
        return _logprobs(self._server, values, 1)

    def _banned(self, allowed: tuple[int, ...] | None, stops: tuple[int, ...]) -> str:
        free = range(self._vocab_size) if allowed is None else allowed
        banned = set(range(self._rows)).difference(free).union(stops)
        return f"[{','.join(f'[{token_id},false]' for token_id in sorted(banned))}]"


def _singly(n: int) -> list[range]:
    return [range(i, i + 1) for i in range(n)]


def _cards(server: Server) -> dict[str, dict[str, Any]]:
    """Return what the server says of each model, by its names."""
    status, answer = _asked(server, "GET", server.path + "/models")
    if status == 404:
        raise failure(server, "no list of models (HTTP 404)", "Correct the URL, which mostly ends in /v1")
    data = _json(server, status, answer).get("data")
    cards: dict[str, dict[str, Any]] = {}
    for card in data if isinstance(data, list) else []:
        if isinstance(card, dict):
            aliases = card.get("aliases")
            for name in (card.get("id"), *(aliases if isinstance(aliases, list) else ())):
                cards[str(name)] = card
    return cards


def _check_vocabulary(server: Server, expected: int, found: int) -> None:
    if not expected <= found < expected + _PADDING:
        raise BundleError(
            f"Asking '{server.url}' for its model: found a vocabulary of {found} ids, the bundle's model has "
            f"{expected}. Serve the bundle's own language model there."
        )


def _asked(server: Server, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    try:
        return Call(server).ask(method, path, body)
    except (OSError, HTTPException) as error:
        raise unreached(server, error) from error


def _events(server: Server, call: Call, path: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the events of an answer, up to its end."""
    with call.events(path, body) as (status, told):
        for data in told:
            if data == b"[DONE]":
                return
            yield _json(server, status, data)


def _json(server: Server, status: int, data: bytes) -> dict[str, Any]:
    if status != 200:
        raise _refused(server, status, data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _senseless(server, "no JSON", data) from error
    if not isinstance(found, dict):
        raise _senseless(server, "no JSON object", data)
    if "error" in found:
        raise failure(server, f"that it failed: {server.shown(data)}", "Look into the server's log")
    return found


def _refused(server: Server, status: int, answer: bytes) -> EngineError:
    found = f"HTTP {status}: {server.shown(answer)}"
    if status in (429, 503):
        return EngineBusy(f"Generating with '{server.url}': found {found}. Ask again later.")
    todo = {
        401: "Give the server's key",
        403: "Give the server's key",
        404: "Correct the URL, which mostly ends in /v1, and the model's name",
    }.get(status, "Look into the server's log" if status >= 500 else "Correct what it says")
    if 300 <= status < 400:
        todo = "Name the place it points to: redirects are not followed"
    return failure(server, found, todo)


def _senseless(server: Server, what: str, found: object) -> EngineError:
    shown = server.shown(found if isinstance(found, bytes) else json.dumps(found).encode())
    return failure(
        server, f"an answer with {what}: {shown}", "Ask a server that gives token ids as they come"
    )


def _count(server: Server, value: object, name: str) -> int:
    if type(value) is not int or value < 1:
        raise failure(
            server, f"no '{name}' among what it says of its model", "Serve one model with a newer server"
        )
    return value


def _fields(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _ids(server: Server, value: object, event: object) -> Ids:
    if not isinstance(value, list) or not all(type(token_id) is int for token_id in value):
        raise _senseless(server, "no token ids", event)
    return value


def _logprobs(server: Server, value: object, count: int) -> list[float]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(isinstance(x, int | float) and math.isfinite(x) and x < 1e-3 for x in value)
    ):
        raise _senseless(server, f"no {count} log-probabilities", value)
    return [min(float(x), 0.0) for x in value]
