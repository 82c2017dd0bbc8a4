"""Best of N at published sizes against the obvious loop: random weights, fixed lengths, seconds by stage.

Both draw N candidates of one prompt with a 135M policy, decode them with X-Codec2, have them heard by
Whisper-base and take the one with the fewest wrong characters. The loop does so one candidate after another,
with `transformers.generate`, `Xcodec2Model.decode` and `WhisperForConditionalGeneration.generate`. Ours
draws, decodes and listens in batches. Policy and Whisper are in one dtype on both sides; the codec is one.

Check: the candidates that ours drew, decoded and heard again by the loop's own means one at a time, have the
same winner.

The bar is 5 (processor time, lower bound of the interval). `--shape tiny` tries the program in seconds.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tiny X-Codec2 is shared with the tests

import numpy as np
import torch
from paired import finish, flags, header, paired
from rapidfuzz.distance import Levenshtein
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
    Xcodec2Config,
    Xcodec2Model,
)

from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Codes, SamplingParams
from llasa.engines.native import NativeEngine
from llasa.recognizers.whisper import WhisperRecognizer
from tests.contracts.test_codec import tiny_xcodec2

CODES, FIRST, END = 65_536, 256, 256 + 65_536  # codes, the id of the first, the id of the end
TEXT = "The rain has stopped, so let us go outside."
MARKERS = ("startoftranscript", "en", "transcribe", "translate", "notimestamps")
BAR = 5.0
SHAPES: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # of policy and Whisper
    "135m": (
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3},
        {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8,
         "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048},
    ),
    "tiny": (
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2},
        {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    ),
}  # fmt: skip


@dataclass
class Clock:
    """Processor seconds by stage."""

    spent: Counter[str] = field(default_factory=Counter[str])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.spent[name] += time.process_time() - began


class Bench:
    """The contenders: one set of weights, two ways."""

    def __init__(self, shape: str, dtype: torch.dtype, n: int, codes: int, words: int, seed: int) -> None:
        self.n, self.length = n, codes
        self.clocks = {"ours": Clock(), "loop": Clock()}
        policy, whisper = SHAPES[shape]
        torch.manual_seed(seed)
        self.prompt = torch.randint(0, FIRST, (64,)).tolist()
        config = LlamaConfig(
            vocab_size=END + 1, tie_word_embeddings=True, max_position_embeddings=4096, **policy
        )
        self.model: Any = LlamaForCausalLM(config).to(dtype).eval()
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            self.engine = NativeEngine.load(folder, None, dtype)
        self.codec_model: Any = tiny_xcodec2() if shape == "tiny" else Xcodec2Model(Xcodec2Config()).eval()
        self.codec = Xcodec2Codec(self.codec_model, "xcodec2@random")
        self.processor: Any = WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer())
        self.whisper: Any = hearing(whisper, self.processor.tokenizer, words).to(dtype)
        self.asked: list[Codes] = []

    def ours(self) -> str:
        """Return what was heard of the winner: all candidates drawn, decoded and heard at once."""
        clock = self.clocks["ours"]
        self.engine.forget()
        with clock.stage("draw"):
            params = SamplingParams(
                n=self.n, min_tokens=self.length, max_tokens=self.length, top_k=0, temperature=1.0, top_p=1.0,
                loop_guard=False, allowed_token_ids=tuple(range(FIRST, END)), stop_token_ids=(END,),
            )  # fmt: skip
            made = self.engine.submit(self.prompt, params).result()
        self.asked = [[token - FIRST for token in one.ids] for one in made]
        with clock.stage("decode"):
            sounds = self.codec.decode(self.asked)
        with clock.stage("listen"):
            # A new one each time, since it remembers what it heard.
            recognizer = WhisperRecognizer(self.whisper, self.processor, "whisper@random")
            heard = [one.text for one in recognizer.transcribe(sounds)]
        return min(heard, key=errors)

    def loop(self) -> str:
        """Return what was heard of the winner, one candidate after another."""
        return min((self._heard(self._drawn(), self.clocks["loop"]) for _ in range(self.n)), key=errors)

    def again(self) -> str:
        """Return what the loop hears of the winner among the candidates of `ours`."""
        return min((self._heard(codes, Clock()) for codes in self.asked), key=errors)

    @torch.inference_mode()
    def _drawn(self) -> Codes:
        with self.clocks["loop"].stage("draw"):
            made = self.model.generate(
                torch.tensor([self.prompt]), attention_mask=torch.ones(1, len(self.prompt), dtype=torch.long),
                do_sample=True, temperature=1.0, top_k=0, min_new_tokens=self.length,
                max_new_tokens=self.length, eos_token_id=END, pad_token_id=END,
            )  # fmt: skip
        return [(token - FIRST) % CODES for token in made[0, len(self.prompt) :].tolist()]

    @torch.inference_mode()
    def _heard(self, codes: Codes, clock: Clock) -> str:
        with clock.stage("decode"):
            rows = torch.tensor([[codes]], device=self.codec_model.device)
            samples = self.codec_model.decode(rows).audio_values[0, 0].clamp(-1, 1)
            sound = Audio(samples.float().numpy().astype(np.float32), self.codec.sample_rate)
        with clock.stage("listen"):
            features = self.processor.feature_extractor(
                sound.samples, sampling_rate=16000, return_tensors="pt"
            )
            settings = self.whisper.generation_config
            ids = self.whisper.generate(
                features.input_features.to(self.whisper.dtype), language="en", task="transcribe",
                return_timestamps=False, generation_config=settings,
            )  # fmt: skip
            text = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
        return " ".join(text.split())


def errors(heard: str) -> float:
    """Return the share of characters that are wrong."""
    return Levenshtein.normalized_distance(TEXT, heard)


def tokenizer() -> WhisperTokenizer:
    """Return a tokenizer of single bytes with Whisper's markers."""
    vocab = {byte: i for i, byte in enumerate(sorted(ByteLevel.alphabet()))}
    made = WhisperTokenizer(vocab=vocab | {"<|endoftext|>": len(vocab)}, merges=[])
    made.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in MARKERS]})
    return made


def hearing(shape: dict[str, int], words: WhisperTokenizer, length: int) -> WhisperForConditionalGeneration:
    """Return a random Whisper of full windows that writes `length` tokens of whatever it hears."""
    ids: Any = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", *MARKERS)}
    end = ids["endoftext"]
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=51_865, bos_token_id=end, eos_token_id=end, pad_token_id=end, init_std=0.3,
            decoder_start_token_id=ids["startoftranscript"], suppress_tokens=None, begin_suppress_tokens=None,
            **shape,
        )
    ).eval()  # fmt: skip
    model.generation_config = GenerationConfig(
        max_length=length + 4, eos_token_id=end, pad_token_id=end, bos_token_id=end, is_multilingual=True,
        decoder_start_token_id=ids["startoftranscript"], lang_to_id={"<|en|>": ids["en"]},
        task_to_id={"transcribe": ids["transcribe"], "translate": ids["translate"]},
        no_timestamps_token_id=ids["notimestamps"], suppress_tokens=list(range(end, 51_865)),
    )  # fmt: skip
    return model


def stages(bench: Bench, calls: int) -> dict[str, dict[str, float]]:
    """Return processor seconds an utterance of each stage."""
    return {
        name: {stage: spent / calls for stage, spent in clock.spent.items()}
        for name, clock in bench.clocks.items()
    }


def table(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield lines of seconds by stage."""
    yield f"{'processor s an utterance':26}" + "".join(f"{name:>10}" for name in (*found, "ratio"))
    for stage in found["ours"]:
        row: list[float] = [one[stage] for one in found.values()]
        yield f"{stage:26}" + "".join(f"{value:10.2f}" for value in (*row, row[1] / max(row[0], 1e-9)))


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", rounds=7)
    parser.add_argument("--shape", choices=list(SHAPES), default="135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--codes", type=int, default=500, help="a candidate; 50 are a second")
    parser.add_argument("--words", type=int, default=40, help="tokens that Whisper writes of a clip")
    parser.add_argument("--warm", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args.shape, getattr(torch, args.dtype), args.n, args.codes, args.words, args.seed)
    contenders: tuple[Callable[[], str], Callable[[], str]] = (bench.ours, bench.loop)
    ratio = paired(*contenders, rounds=args.rounds, warm=args.warm)
    found = stages(bench, args.rounds + args.warm)
    wanted, again = bench.ours(), bench.again()
    failed = [] if errors(wanted) == errors(again) else [f"winners: ours {wanted!r}, one at a time {again!r}"]
    if not args.json:
        print("\n".join([header("ours", "loop"), ratio.row(f"best of {args.n}"), "", *table(found)]))
        print(f"bar {BAR:g}: {'met' if ratio.cpu_low >= BAR else 'missed'}")
    setting = {key: value for key, value in vars(args).items() if key != "json"}
    finish({"setting": setting, "ratio": ratio.as_dict(), "stages": found, "bar": BAR}, failed, args.json)


if __name__ == "__main__":
    main()
