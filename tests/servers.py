"""Small real servers that speak as vLLM and llama.cpp do, over a scripted distribution; a model for others.

`python -m tests.servers FOLDER` writes the model that the slow tests of `tests/contracts/test_remote.py`
expect a real server to run: FOLDER for vLLM, FOLDER/model.gguf for llama.cpp.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.core import Ids
from llasa.prompt import SPEECH_END

VOCAB, LENGTH, END = 64, 1024, 40
Fields = dict[str, Any]
Speak = Callable[["Handler", Fields | None], None]
_TABLE = np.random.default_rng(0).normal(size=(2, VOCAB, VOCAB)) * 1.5


def logits(ids: Ids) -> np.ndarray:
    """What the scripted model thinks of each id, float [V]: a matter of the last two ids."""
    return _TABLE[0, ids[-1]] + _TABLE[1, ids[-2] if len(ids) > 1 else 0]


class Chain:
    """Ids drawn one after another, as a server draws them."""

    def __init__(self, fields: Fields, seed: int) -> None:
        self.fields, self.prompt, self.ids = fields, list(fields["prompt"]), []
        self._rng = np.random.default_rng(seed)

    def draw(self, banned: set[int]) -> tuple[int, float]:
        """Return the next id and its log-probability among all ids."""
        every = logits(self.prompt + self.ids)
        scores = np.where([i in banned for i in range(VOCAB)], -np.inf, every)
        order = np.argsort(-scores)
        if self.fields["temperature"]:
            probs = np.exp((scores - scores.max()) / self.fields["temperature"])[order]
            kept = np.arange(VOCAB) < (self.fields["top_k"] or VOCAB)
            probs = probs * kept / (probs * kept).sum()
            probs *= np.cumsum(probs) - probs < self.fields["top_p"]
            picked = int(self._rng.choice(order, p=probs / probs.sum()))
        else:
            picked = int(order[0])
        self.ids.append(picked)
        return picked, float(every[picked] - np.log(np.exp(every).sum()))


class Handler(BaseHTTPRequestHandler):
    """Gives each request to what its server speaks. served: the server."""

    protocol_version = "HTTP/1.1"
    served: "Served"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, fields: Fields | None) -> None:
        self.close_connection = True
        with self.served.working(self, fields):
            self.served.speak(self, fields)

    def reply(self, status: int, body: Any, **headers: str) -> None:
        """Send an answer whole; what is not bytes goes as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        """Begin a stream of events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write(self, data: bytes) -> None:
        """Send a piece of the stream; nothing ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, data: Any) -> None:
        """Send an event."""
        self.write(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


class Served:
    """A local server.

    requests: path, headers and fields of each post. now: how many posts it works on. hung_up: how often
    a client went away.
    """

    def __init__(self, speak: Speak) -> None:
        self.speak = speak
        self.requests: list[tuple[str, dict[str, str], Fields]] = []
        self.now = self.hung_up = 0
        self._lock = Lock()
        server = type("Server", (ThreadingHTTPServer,), {"request_queue_size": 128, "daemon_threads": True})
        self._server = server(("127.0.0.1", 0), type("Bound", (Handler,), {"served": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @contextmanager
    def working(self, handler: Handler, fields: Fields | None) -> Iterator[None]:
        """Count a post."""
        posts = int(fields is not None)
        with self._lock:
            self.now += posts
            if fields is not None:
                self.requests.append((handler.path, dict(handler.headers), fields))
        try:
            yield
        except OSError:
            with self._lock:
                self.hung_up += posts
        finally:
            with self._lock:
                self.now -= posts

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(speak: Speak) -> Iterator[Served]:
    """A server for as long as the block runs."""
    served = Served(speak)
    try:
        yield served
    finally:
        served.close()


def vllm(handler: Handler, fields: Fields | None) -> None:
    """Speak as vLLM 0.32 does, with a model 'tiny' and a LoRA module 'soft' that draws ids 20 to 29."""
    if fields is None:
        base = {"id": "tiny", "owned_by": "vllm", "parent": None, "max_model_len": LENGTH}
        module = {"id": "soft", "owned_by": "vllm", "parent": "tiny", "max_model_len": None}
        handler.reply(200, {"object": "list", "data": [base, module]})
    elif wrong := _wrong_for_vllm(handler, fields):
        handler.reply(400, {"error": {"message": wrong, "code": 400}})
    else:
        handler.begin()
        _stream_choices(handler, fields)
        handler.event("[DONE]")
        handler.write(b"")


def _wrong_for_vllm(handler: Handler, fields: Fields) -> str:
    strange = [i for i in fields["stop_token_ids"] if i >= VOCAB]
    if handler.path != "/v1/completions" or fields["model"] not in ("tiny", "soft"):
        return f"no {fields['model']} at {handler.path}"
    if strange:
        return f"token_id(s) {strange} contain out-of-vocab token ids. Vocabulary size: {VOCAB}"
    if fields["temperature"] == 0 and fields["n"] > 1:
        return "n must be 1 when using greedy sampling"
    if not 0 <= fields["min_tokens"] <= fields["max_tokens"] <= LENGTH - len(fields["prompt"]):
        return "max_tokens cannot be greater than max_model_len"
    return ""


def _stream_choices(handler: Handler, fields: Fields) -> None:
    allowed = set(range(VOCAB) if fields["allowed_token_ids"] is None else fields["allowed_token_ids"])
    forbidden = set(range(VOCAB)) - (allowed & set(range(30)) if fields["model"] == "soft" else allowed)
    stops = set(fields["stop_token_ids"])
    live = {i: Chain(fields, fields["seed"] + i) for i in range(fields["n"])}
    while live:
        time.sleep(0.001)
        for i, chain in list(live.items()):
            young = len(chain.ids) < fields["min_tokens"]
            token_id, logprob = chain.draw(forbidden | stops if young else forbidden)
            finish = "stop" if token_id in stops else None
            finish = finish or ("length" if len(chain.ids) == fields["max_tokens"] else None)
            if finish:
                del live[i]
            told = {"token_logprobs": [logprob]} if fields["logprobs"] is not None else None
            choice = {
                "index": i,
                "text": "",
                "token_ids": [token_id],
                "logprobs": told,
                "finish_reason": finish,
            }
            handler.event({"choices": [choice]})


def llama_server(handler: Handler, fields: Fields | None) -> None:
    """Speak as llama.cpp's llama-server does, with a model 'tiny'."""
    if fields is None and handler.path == "/props":
        handler.reply(200, {"default_generation_settings": {"n_ctx": LENGTH}, "total_slots": 4})
    elif fields is None:
        meta = {"n_vocab": VOCAB, "n_ctx_train": LENGTH}
        handler.reply(
            200, {"data": [{"id": "tiny", "owned_by": "llamacpp", "aliases": ["other"], "meta": meta}]}
        )
    elif handler.path != "/completion" or fields["samplers"] != ["temperature", "top_k", "top_p"]:
        handler.reply(404, {"error": {"code": 404, "message": "File Not Found"}})
    else:
        handler.begin()
        banned = {token_id for token_id, bias in fields["logit_bias"] if bias is False}
        chain = Chain(fields, fields["seed"])
        for told in range(1, fields["n_predict"] + 1):
            time.sleep(0.001)
            token_id, logprob = chain.draw(banned)
            event = {"tokens": [token_id], "tokens_predicted": told, "stop": False}
            if fields["n_probs"]:
                event["completion_probabilities"] = [{"id": token_id, "logprob": logprob}]
            handler.event(event)
        handler.event({"tokens": [], "tokens_predicted": fields["n_predict"], "stop": True})
        handler.write(b"")


def model() -> Any:
    """A small random Llama of 64 ids, always the same one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, head_dim=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=96, vocab_size=VOCAB, initializer_range=0.3, max_position_embeddings=LENGTH,
        bos_token_id=None, eos_token_id=END, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_model(folder: Path) -> None:
    """Write the model for real servers."""
    from llasa.export.gguf import export_gguf

    model().save_pretrained(folder)
    names = [SPEECH_END if i == END else f"t{i}" for i in range(VOCAB)]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="t0"))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    export_gguf(folder, folder / "model.gguf", "f32")


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
