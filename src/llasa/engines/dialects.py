"""How servers of completions are spoken to: vLLM and llama.cpp. Knows no threads and no requests of ours.

What they answer is seen in `replies` to be ids and numbers, and in `remote` to be what was asked.
"""

import json
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from functools import lru_cache
from http.client import HTTPException
from typing import Any, Protocol

from llasa.core import Ids, SamplingParams
from llasa.engines.replies import (
    content,
    count_of,
    failure,
    fields_of,
    ids_of,
    logprobs_of,
    refused,
    senseless,
    unreached,
)  # fmt: skip
from llasa.engines.sampling import stream_key
from llasa.errors import BundleError, ConfigError
from llasa.web import Call, Server

_log = logging.getLogger(__name__)
News = tuple[int, Ids, list[float]]  # candidate, ids drawn, their log-probabilities if they were asked for
_PADDING = 256  # rows of a model that no id of its tokenizer has are fewer
_COLDEST = 0.01  # vLLM draws at this temperature where a lower one is asked for


class Dialect(Protocol):
    """What differs from server to server.

    max_length: prompt and generated ids together. adapters: names that requests may give. slots: how many
    HTTP requests it works on at once, None if that is its own affair.
    """

    max_length: int
    slots: int | None
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
        others = ", ".join(map(repr, cards)).encode()
        found = f"no model '{model}', but {server.shown(others) if others else 'none'}"
        raise ConfigError(f"Asking '{server.url}' for its models: found {found}. Name one behind the '#'.")
    owner = cards[model].get("owned_by")
    if owner == "vllm":
        return Vllm(server, model, vocab_size, cards)
    if owner == "llamacpp":
        return LlamaServer(server, cards[model], vocab_size)
    shown = server.shown(str(owner).encode())
    raise ConfigError(
        f"Asking '{server.url}' what it is: found a server of {shown}. Use vLLM or llama.cpp's llama-server: "
        " it must take token ids, give token ids as they come, and draw from allowed ids only."
    )


class Vllm:
    """vLLM: one HTTP request for all candidates.

    A candidate's seed is the request's plus its place in it, on their side as on ours, so that a later wave
    goes on where an earlier one ended. Log-probabilities are those of all ids, before temperature and allowed
    ids, unless the server runs with `--logprobs-mode processed_logprobs`. On a CPU, vLLM 0.32 runs requests
    without a LoRA module as if they had one while others have; on a GPU it has other kernels.

    Source: vLLM 0.32, `v1/engine/parallel_sampling.py`, `entrypoints/openai/completion/protocol.py`.
    """

    slots: int | None = None

    def __init__(
        self, server: Server, model: str, vocab_size: int, cards: Mapping[str, dict[str, Any]]
    ) -> None:
        self._server, self._model = server, model
        self.adapters = tuple(sorted(name for name, card in cards.items() if card.get("parent")))
        lengths = [cards[model].get("max_model_len"), *(card.get("max_model_len") for card in cards.values())]
        self.max_length = count_of(server, next(filter(None, lengths), None), "max_model_len")
        self._listed = lru_cache(maxsize=8)(json.dumps)
        size = self._vocabulary(vocab_size)
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
                raise senseless(self._server, "no choices", event)
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
            raise senseless(self._server, f"a choice that is none of {len(candidates)}", choice)
        ids = ids_of(self._server, choice.get("token_ids"), choice)
        given = fields_of(choice.get("logprobs"))
        logprobs = logprobs_of(self._server, given.get("token_logprobs"), len(ids)) if wanted and ids else []
        return candidates[place], ids, logprobs

    def _vocabulary(self, expected: int) -> int | None:
        """Ask for what cannot be, since newer servers' refusals tell the size of the vocabulary.

        Of others it is only seen that they take the highest id.
        """
        status, answer = self._probe([0], [2**31 - 1])
        if status not in (200, 400):
            raise refused(self._server, status, answer)
        if told := re.search(rb"Vocabulary size: (\d{1,9})\b", answer):
            return int(told[1])
        status, answer = self._probe([expected - 1], [])
        if status == 400:
            raise BundleError(
                f"Asking '{self._server.url}' for its model: found that it refuses id {expected - 1}, which "
                f"the bundle's model has: {self._server.shown(answer)}. Serve the bundle's own model there."
            )
        if status != 200:
            raise refused(self._server, status, answer)
        _log.warning("'%s' does not tell its vocabulary: see that it serves this model", self._server.url)
        return None

    def _probe(self, prompt: Ids, stops: Ids) -> tuple[int, bytes]:
        fields = {"model": self._model, "prompt": prompt, "max_tokens": 1, "stop_token_ids": stops}
        return _asked(self._server, "POST", self._server.path + "/completions", json.dumps(fields).encode())


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
        props = content(server, *_asked(server, "GET", self._root + "/props"))
        settings = props.get("default_generation_settings")
        self.max_length = count_of(server, fields_of(settings).get("n_ctx"), "n_ctx")
        self.slots: int | None = count_of(server, props.get("total_slots"), "total_slots")
        self._rows = count_of(server, fields_of(card.get("meta")).get("n_vocab"), "n_vocab")
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
            ids = ids_of(self._server, event.get("tokens"), event)
            told += len(ids)
            if (drawn := event.get("tokens_predicted")) != told:
                raise failure(
                    self._server,
                    f"{told} ids where {self._server.shown(json.dumps(drawn).encode())} were drawn",
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
        return logprobs_of(self._server, values, 1)

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
    data = content(server, status, answer).get("data")
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
            yield content(server, status, data)
