"""The prompt format: text and codes to token ids, and back. Nothing else knows markers and code arithmetic.

It must not know the engine, sound, or how writing becomes speakable: text arrives in the bundle's own form
(characters or phones). A prompt is head + text + tail + voice codes; a family is the pair (head, tail), which
the tokenizer reads with its markers on. Text is read by a view of the tokenizer that has no markers, so it
can never become one.
"""

import json
import logging
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models

from llasa.core import Codes, Ids, SamplingParams, Voice
from llasa.errors import BundleError, ConfigError, InputError

MARKERS = (  # in the published order of ids; speech tokens follow
    "<|TEXT_GENERATION_START|>",
    "<|TEXT_GENERATION_END|>",
    "<|TEXT_UNDERSTANDING_START|>",
    "<|TEXT_UNDERSTANDING_END|>",
    "<|SPEECH_GENERATION_START|>",
    "<|SPEECH_GENERATION_END|>",
    "<|SPEECH_UNDERSTANDING_START|>",
    "<|SPEECH_UNDERSTANDING_END|>",
)
TEXT_START, TEXT_END, SPEECH_START, SPEECH_END = MARKERS[2:6]
INSTRUCTION = "Convert the text to speech:"
# The Llama-3 template writes the date of the day unless told one, and prompts then drift from day to day.
# This is the template's own constant for systems without a clock.
DATE = "26 Jul 2024"
IGNORED = -100  # the label that PyTorch's cross entropy skips

_log = logging.getLogger(__name__)
_AGAIN = "Fetch or build the bundle again."
_SENTINEL = "\ue000"  # stands for the text while the chat template is rendered: private use, in no template
_SURROGATES = re.compile("[\ud800-\udfff]")  # not encodable as UTF-8
_PLAINER = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\t": " ", "\n": " ", "\r": " "})


class Family(NamedTuple):
    """What surrounds the text: `head` ends with the text's start marker, `tail` with the speech start marker.

    separator: written between the voice's transcript and the text.
    """

    head: str
    tail: str
    separator: str = " "


PLAIN = Family(TEXT_START, TEXT_END + SPEECH_START)


def speech_token(code: int) -> str:
    """Return the name of a code in the tokenizer."""
    return f"<|s_{code}|>"


class Prompt:
    """Builds prompts and training rows for one tokenizer, and reads codes out of ids.

    allowed_token_ids: every code's id and the end marker's; stop_token_ids: the end marker's. vocab_size:
    rows the model needs at least. separator: what stands between the voice's transcript and the text.
    """

    def __init__(self, tokenizer: Tokenizer, family: Family, codebook_size: int) -> None:
        """Resolve every id by name.

        Args:
            tokenizer: with the markers and speech tokens added.
            family: what surrounds the text, e.g. `PLAIN`; `Prompt.load` makes it from a family's name.
            codebook_size: entries of the codec; the tokenizer must have exactly that many speech tokens.

        Raises:
            BundleError: markers or speech tokens are missing, or speech ids are not contiguous.
        """
        self.codebook_size = codebook_size
        self.end_id = _end_id(tokenizer)
        self.first_code_id = _first_code_id(tokenizer, codebook_size)
        self.stop_token_ids = (self.end_id,)
        code_ids = range(self.first_code_id, self.first_code_id + codebook_size)
        self.allowed_token_ids = (*code_ids, self.end_id)
        self._head = tokenizer.encode(family.head, add_special_tokens=False).ids
        self._tail = tokenizer.encode(family.tail, add_special_tokens=False).ids
        self.separator = family.separator
        self._text_view = _text_view(tokenizer)
        added = tokenizer.get_added_tokens_decoder().keys()
        unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
        self._not_text = frozenset(added) | {unknown}
        self.vocab_size = max(self._text_view.get_vocab_size(), 1 + max(added))

    @classmethod
    def load(cls, folder: str | Path, family: str, codebook_size: int, separator: str = " ") -> "Prompt":
        """Return the prompt of a model folder in Hugging Face layout.

        Args:
            folder: holds `tokenizer.json` and `tokenizer_config.json`.
            family: `llasa-chat` (published checkpoints) or `llasa-plain` (the same markers without chat
                turns).
            codebook_size: entries of the codec.
            separator: written between the voice's transcript and the text.

        Raises:
            ConfigError: no such family.
            BundleError: a file is damaged, or one, the chat template, a marker or a speech token is missing
                or does not fit.

        Source: zhenye234/LLaSA_training (format of training rows).
        """
        folder = Path(folder)
        if family not in FAMILIES:
            raise ConfigError(
                f"Loading the prompt format of {folder}: found family '{family}'. "
                f"Use one of: {', '.join(FAMILIES)}."
            )
        tokenizer = _tokenizer(folder / "tokenizer.json")
        tokenizer.no_padding()  # a training script may have left either switched on in the file
        tokenizer.no_truncation()
        surroundings = FAMILIES[family](folder, tokenizer)
        return cls(tokenizer, surroundings._replace(separator=separator), codebook_size)

    def render(self, text: str, voice: Voice | None = None, separator: str | None = None) -> Ids:
        """Return the ids an engine continues with speech:
        all up to the speech start marker and the voice's codes.

        Args:
            text: in the bundle's own form; characters the tokenizer does not know are dropped and logged.
            voice: its `text` in the same form.
            separator: written between the two; the family's if None.

        Raises:
            InputError: no text is left, or a code of the voice is out of range.
        """
        between = self.separator if separator is None else separator
        ids, dropped = self._render(text, voice and voice.text + between, voice.codes if voice else [])
        if dropped:
            shown = " ".join(repr(piece[:20]) for piece in dropped[:20])
            _log.info("dropped from the text, because the tokenizer does not know them: %s", shown)
        return ids

    def example(
        self, text: str, codes: Codes, voice_text: str | None = None, voice_codes: Codes | None = None
    ) -> tuple[Ids, Ids]:
        """Return a training row (ids, labels), equally long, that ends with the end marker.

        Args:
            text: what is said, in the bundle's own form.
            codes: [N] of its recording, N > 0.
            voice_text: transcript of a reference, given together with `voice_codes`.
            voice_codes: codes of the reference.

        Returns:
            ids and labels; labels are -100 except on `codes` and the end marker.

        Raises:
            InputError: no text, no codes, a code out of range, or half a voice.
        """
        if not codes or (voice_text is None) != (voice_codes is None):
            raise InputError(
                f"Building a training row for {text[:40]!r}: found {len(codes)} codes and "
                f"{'a' if voice_text is not None else 'no'} voice text with "
                f"{'its' if voice_codes is not None else 'no'} voice codes. "
                "Give codes, and both halves of a voice."
            )
        before = None if voice_text is None else voice_text + self.separator
        prompt, _ = self._render(text, before, voice_codes or [])
        target = [*self.ids(codes), self.end_id]
        return prompt + target, [IGNORED] * len(prompt) + target

    def text_ids(self, text: str) -> tuple[Ids, tuple[str, ...]]:
        """Return the ids of text, none of them an added token's, and the distinct pieces that were dropped.

        A piece the tokenizer does not know is tried in a plainer form (lower case, no accents, straight
        apostrophes) and dropped if nothing of it is known.
        """
        clean = _SURROGATES.sub("", text)
        encoding = self._text_view.encode(clean, add_special_tokens=False)
        if self._not_text.isdisjoint(encoding.ids):
            return encoding.ids, tuple(dict.fromkeys(_SURROGATES.findall(text)))
        ids: Ids = []
        plainer: dict[str, Ids] = {}
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id not in self._not_text:
                ids.append(token_id)
                continue
            piece = clean[start:end]
            if piece not in plainer:
                plainer[piece] = self._plainer_ids(piece)
            ids.extend(plainer[piece])
        dropped = [*_SURROGATES.findall(text), *(piece for piece, known in plainer.items() if not known)]
        return ids, tuple(dict.fromkeys(dropped))

    def ids(self, codes: Codes) -> Ids:
        """Return the token ids of codes.

        Raises:
            InputError: a code is outside [0, codebook_size).
        """
        if codes and not 0 <= min(codes) <= max(codes) < self.codebook_size:
            raise InputError(
                f"Turning codes into token ids: found codes from {min(codes)} to {max(codes)}, "
                f"but the codebook has {self.codebook_size} entries. Make them with this bundle's codec."
            )
        return [code + self.first_code_id for code in codes]

    def codes(self, ids: Ids) -> Codes:
        """Return the codes of speech token ids.

        Raises:
            InputError: an id is not a speech token's.
        """
        first, end = self.first_code_id, self.first_code_id + self.codebook_size
        odd = [token_id for token_id in ids if not first <= token_id < end]
        if odd:
            raise InputError(
                f"Reading codes from token ids: found id {odd[0]}, which is no speech token. "
                "Generate with the parameters that `constrain` returns."
            )
        return [token_id - first for token_id in ids]

    def names(self) -> dict[int, str]:
        """Return the names of the end marker and of the first and last code, by id."""
        last = self.codebook_size - 1
        codes = {self.first_code_id + code: speech_token(code) for code in (0, last)}
        return {self.end_id: SPEECH_END, **codes}

    def constrain(self, params: SamplingParams) -> SamplingParams:
        """Return `params` limited to codes and the end marker, stopping at the latter."""
        return replace(params, allowed_token_ids=self.allowed_token_ids, stop_token_ids=self.stop_token_ids)

    def _render(self, text: str, before: str | None, voice_codes: Codes) -> tuple[Ids, tuple[str, ...]]:
        ids, dropped = self.text_ids(text)
        if not ids or not text.strip():
            raise InputError(
                f"Building a prompt: nothing in the text {text[:40]!r} is known to the tokenizer. "
                "Give text that can be spoken."
            )
        if before is not None:  # read in one go, because tokens may reach across the separator
            ids, dropped = self.text_ids(before + text)
        return [*self._head, *ids, *self._tail, *self.ids(voice_codes)], dropped

    def _plainer_ids(self, piece: str) -> Ids:
        plain = unicodedata.normalize("NFKD", piece.casefold()).translate(_PLAINER)
        ids = self._text_view.encode(plain, add_special_tokens=False).ids
        return [token_id for token_id in ids if token_id not in self._not_text]


def _text_view(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that reads text alike but has no added tokens.

    The switches that hide special tokens do not cover Llasa's, which are ordinary added tokens.
    """
    view = Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        view.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        view.pre_tokenizer = tokenizer.pre_tokenizer
    return view


def _end_id(tokenizer: Tokenizer) -> int:
    used = (TEXT_START, TEXT_END, SPEECH_START, SPEECH_END)
    missing = [name for name in used if tokenizer.token_to_id(name) is None]
    end_id = tokenizer.token_to_id(SPEECH_END)
    if missing or end_id is None:
        raise BundleError(
            f"Reading the tokenizer: it has no {', '.join(missing)}. "
            "Use the tokenizer that came with the model."
        )
    return end_id


def _first_code_id(tokenizer: Tokenizer, codebook_size: int) -> int:
    first = tokenizer.token_to_id(speech_token(0))
    if first is None:
        raise _unfit(f"expected {speech_token(0)}", "no such token", codebook_size)
    for code in range(codebook_size):
        found = tokenizer.token_to_id(speech_token(code))
        if found != first + code:
            expected = f"expected {speech_token(code)} to have id {first + code}"
            raise _unfit(expected, "no such token" if found is None else f"id {found}", codebook_size)
    if tokenizer.token_to_id(speech_token(codebook_size)) is not None:
        raise _unfit(f"expected {speech_token(codebook_size - 1)} to be the last", "more", codebook_size)
    return first


def _unfit(expected: str, found: str, codebook_size: int) -> BundleError:
    return BundleError(
        f"Reading the tokenizer for a codec of {codebook_size} entries: {expected}, found {found}. "
        "Use the tokenizer and the codec that came with the model."
    )


def _plain_family(folder: Path, tokenizer: Tokenizer) -> Family:
    bos = _special_tokens(folder).get("bos_token", "")
    return PLAIN._replace(head=bos + PLAIN.head)


def _chat_family(folder: Path, tokenizer: Tokenizer) -> Family:
    rendered = _render_chat(folder)
    bos = _special_tokens(folder).get("bos_token", "")
    bare = re.sub(f"^(?:{re.escape(bos)})+", "", rendered)
    # Most templates write it, some leave it to the tokenizer; the prompt begins with one. Further on it is
    # left alone: SmolLM2 begins every turn with it.
    if bare != rendered or tokenizer.encode("").ids:
        rendered = bos + bare
    head, *tails = rendered.split(_SENTINEL)
    if len(tails) != 1 or not tails[0].endswith(SPEECH_START):
        raise BundleError(
            f"Rendering the chat template of {folder}: found {rendered!r}, where the text should appear "
            f"once and {SPEECH_START} last. Use the tokenizer that came with the model."
        )
    return Family(head, tails[0])


def _render_chat(folder: Path) -> str:
    # On first use: importing it costs a second, and the plain family does without.
    from jinja2 import TemplateError
    from transformers import PreTrainedTokenizerFast

    # An empty tokenizer is enough to render, and real ones take seconds to load.
    renderer: Any = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()),
        chat_template=_chat_template(folder),
        **_special_tokens(folder),
    )
    messages = [
        {"role": "user", "content": INSTRUCTION + TEXT_START + _SENTINEL + TEXT_END},
        {"role": "assistant", "content": SPEECH_START},
    ]
    try:
        rendered = renderer.apply_chat_template(
            messages, tokenize=False, continue_final_message=True, date_string=DATE
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise _damaged(folder, error, "Rendering the chat template") from error
    return str(rendered)


def _chat_template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    template = file.read_text("utf-8") if file.is_file() else _config(folder).get("chat_template")
    if isinstance(template, list):  # several, by name
        named: Any = template  # pyright: ignore[reportUnknownVariableType]
        template = next((one.get("template") for one in named if one.get("name") == "default"), None)
    if not isinstance(template, str):
        raise BundleError(
            f"Reading the chat template of {folder}: tokenizer_config.json has none. "
            "Use the tokenizer that came with the model; a bundle.toml may choose the family llasa-plain."
        )
    return template


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return the declared special tokens by role, e.g. `bos_token`; either spelling of Hugging Face."""
    found: dict[str, str] = {}
    for role, token in _config(folder).items():
        content: Any = token.get("content") if isinstance(token, dict) else token  # pyright: ignore
        if role.endswith("_token") and content and isinstance(content, str):
            found[role] = content
    return found


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    text = _read(path)
    try:
        return dict(json.loads(text).items())
    except (ValueError, AttributeError) as error:  # no JSON, or no object
        raise _damaged(path, error) from error


def _tokenizer(path: Path) -> Tokenizer:
    text = _read(path)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing narrower
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception, doing: str = "Loading the tokenizer") -> BundleError:
    return BundleError(f"{doing}: {path} is damaged ({error}). {_AGAIN}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise BundleError(f"Loading the tokenizer: {path} is missing. {_AGAIN}")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error


FAMILIES = {"llasa-chat": _chat_family, "llasa-plain": _plain_family}
