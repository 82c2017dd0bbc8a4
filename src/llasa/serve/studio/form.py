"""What is on the page and what it does: fields, buttons, and the events between them. Needs Gradio.

Every text goes through the desk, as the API's do. What goes wrong is told on the page.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from pydantic import ValidationError

from llasa.bundle import Bundle
from llasa.errors import BundleError, ConfigError, InputError, LlasaError
from llasa.serve.asked import MOST_SOUND, SpeechRequest
from llasa.serve.guard import key_of
from llasa.serve.replies import bug
from llasa.serve.studio import telling
from llasa.serve.studio.takes import Take, Takes, followed
from llasa.serve.studio.texts import parts_of
from llasa.serve.voices_api import add_voice
from llasa.voice import MAX_S, MIN_S

if TYPE_CHECKING:
    from llasa.serve.speech_api import Desk

Updates = dict[Any, Any]
MOST_HISTORY = 50
TOLD_S = 1.0  # news that are no news are passed on this often, so that Gradio sees who has left
TOP = """<header class="st-top"><h1>llasa studio</h1><p>Speech that is listened to before you hear it</p>
<button type="button" class="st-scheme" data-scheme>Light or dark</button></header>"""
EMPTY = """<div class="st-empty"><p>Nothing said yet</p><p>Type a text and press Speak, or Ctrl and Enter.<br>
With more effort, several candidates are judged and the best is kept.</p></div>"""
CONSENT = "I am the speaker, or the speaker has agreed to this voice being made and used here."
TEXT_FILES = [".epub", ".md", ".markdown", ".txt"]
OWN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _html(value: str = "", id: str | None = None) -> Any:
    """Return a piece of the page that looks as studio.css says."""
    return gr.HTML(value, apply_default_css=False, elem_id=id)


class Form:
    """The page's fields over a desk. To be made inside the blocks."""

    def __init__(self, desk: "Desk", takes: Takes, blocks: gr.Blocks) -> None:
        self._desk, self._takes = desk, takes
        self._running: dict[str, Take] = {}  # by Gradio's session: one page speaks once at a time
        self._bundles = {name: one.bundle for name, one in desk.speakers.speakers.items()}
        _html(TOP)
        self._history = gr.State([])
        self._parts = gr.State([])
        with gr.Row(elem_id="st-columns"):
            with gr.Column(scale=5, elem_id="st-compose"):
                self._compose()
                self._voice_form()
            with gr.Column(scale=7, elem_id="st-stage"):
                self._stage()
        self._wire(blocks)

    def _compose(self) -> None:
        names, first = list(self._bundles), next(iter(self._bundles.values()))
        most = self._desk.speakers.most_characters
        self.text = gr.Textbox(
            label="Text", lines=5, max_lines=14, elem_id="st-text", placeholder="What shall be said?",
            info=f"Up to {most:,} characters.", max_length=most,
        )  # fmt: skip
        self.file = gr.UploadButton(
            "Open a text or e-book (.txt, .md, .epub)", file_types=TEXT_FILES, size="sm", elem_id="st-file"
        )
        self.part = gr.Dropdown([], label="Part of the file", visible=False)
        with gr.Row():
            self.model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
            self.voice = gr.Dropdown(self._voices(first), value=first.default_voice, label="Voice")
        judged = first.judge is not None
        self.effort = gr.Slider(
            1, max(2, self._desk.speakers.most_effort), value=1, step=1, label="Effort", interactive=judged,
            info="Candidates for each sentence; a judge listens and keeps the best. 1 speaks at once.",
        )  # fmt: skip
        with gr.Accordion("Advanced", open=False):
            self._advanced(first)
        with gr.Row():
            self.speak = gr.Button("Speak", variant="primary", elem_id="st-speak", scale=3)
            self.stop = gr.Button("Stop", visible=False, elem_id="st-stop", scale=1)

    def _advanced(self, bundle: Bundle) -> None:
        languages = list(bundle.manifest.lm.languages)
        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="The same seed, the same sound.")
        self.temperature = gr.Slider(
            0, 2, value=bundle.manifest.sampling.temperature, step=0.05, label="Temperature",
            info="Low is steady, high is lively and errs more.",
        )  # fmt: skip
        self.target = gr.Slider(
            0, 1, value=1, step=0.01, label="Target",
            info="Stop searching at a candidate of this value. 1 draws them all.",
        )  # fmt: skip
        choices = [("As the text suggests", ""), *((one, one) for one in languages)]
        self.language = gr.Dropdown(choices, value="", label="Language", visible=len(languages) > 1)

    def _voice_form(self) -> None:
        with gr.Accordion("Make a voice", open=False):
            self.recording = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                elem_id="st-recording",
                label="Recording",
                buttons=[],
                editable=False,
            )
            self.said = gr.Textbox(
                label="What is said in it", lines=2, max_length=2000,
                info=f"Word for word. The recording: {MIN_S:g} to {MAX_S:g} seconds of one speaker.",
            )  # fmt: skip
            self.name = gr.Textbox(label="Name of the voice", max_length=64, info="a to z, digits, - and _")
            self.agreed = gr.Checkbox(label=CONSENT)
            self.consent = gr.Textbox(
                label="Statement of consent", max_length=2000, lines=2,
                info="Who speaks, and that they agree. It is kept with the voice.",
            )  # fmt: skip
            self.make = gr.Button("Make the voice")
            self.made = _html()

    def _stage(self) -> None:
        self.status = _html(telling.status(None), "st-status")
        self.player = _html(EMPTY)
        self.result = _html()
        self.past = gr.Radio([], label="Earlier in this session", visible=False, elem_id="st-past")

    def _wire(self, blocks: gr.Blocks) -> None:
        asked = [
            self.text, self.model, self.voice, self.effort, self.seed, self.temperature, self.target,
            self.language, self._history,
        ]  # fmt: skip
        told = [self.status, self.player, self.result, self.stop, self.past, self._history]
        self.speak.click(self._speak, asked, told, concurrency_limit=None, **OWN)
        self.stop.click(self._stop, None, None, concurrency_limit=None, **OWN)
        self.past.input(self._again, [self.past, self._history], told, **OWN)
        self.file.upload(self._open, self.file, [self.text, self.part, self._parts, self.status], **OWN)
        self.part.input(
            lambda title, parts: dict(parts).get(title, ""), [self.part, self._parts], self.text, **OWN
        )
        chosen = [self.voice, self.effort, self.temperature, self.language]
        self.model.input(self._choose, self.model, chosen, **OWN)
        given = [self.model, self.recording, self.said, self.name, self.agreed, self.consent]
        self.make.click(self._make, given, [self.made, self.voice, *given[1:]], **OWN)
        blocks.load(self._greet, self.model, self.voice, **OWN)
        blocks.unload(self._leave)

    async def _speak(
        self, text: str, model: str, voice: str | None, effort: int, seed: int | None,
        temperature: float, target: float, language: str, history: list[tuple[str, str]],
        request: gr.Request,
    ) -> AsyncIterator[Updates]:  # fmt: skip
        """Say a text, telling the page what happens."""
        session = str(request.session_hash)
        try:
            take = Take(
                self._asked(text, model, voice, effort, seed, temperature, target, language), _owner(request)
            )
        except LlasaError as error:
            yield {self.status: telling.refused(str(error))}
            return
        if running := self._running.get(session):
            running.stop()
        self._running[session] = take
        self._takes.keep(take)
        try:
            yield {
                self.status: telling.status(take),
                self.player: "",
                self.result: "",
                self.stop: gr.update(visible=True),
            }
            async for update in self._news(take):
                yield update
            yield await self._end(take, history)
        finally:
            if self._running.get(session) is take:
                del self._running[session]

    async def _news(self, take: Take) -> AsyncIterator[Updates]:
        shown, told, last = False, "", 0.0
        async for _ in followed(self._desk, take):
            now = telling.status(take)
            if not shown and take.speech is not None and not take.error:
                shown = True
                yield {self.status: now, self.player: await asyncio.to_thread(telling.player, take, True)}
            elif now != told or time.monotonic() - last > TOLD_S:
                yield {self.status: now}
            else:
                continue
            told, last = now, time.monotonic()

    async def _end(self, take: Take, history: list[tuple[str, str]]) -> Updates:
        silent = {self.stop: gr.update(visible=False)}
        if take.stopped:
            return silent | {self.status: telling.status(None), self.player: EMPTY, self.result: ""}
        if take.error:
            return silent | {self.status: telling.refused(take.error), self.player: "", self.result: ""}
        label = await asyncio.to_thread(lambda: f"{telling.title(take)}\n{telling.facts(take)}")
        history = [(label, take.id), *history][:MOST_HISTORY]
        return silent | {
            self.status: telling.status(None),
            self.result: await self._result(take, history),
            self._history: history,
            self.past: gr.update(choices=history, value=take.id, visible=len(history) > 1),
        }

    def _asked(
        self, text: str, model: str, voice: str | None, effort: int, seed: int | None, temperature: float,
        target: float, language: str,
    ) -> SpeechRequest:  # fmt: skip
        if not (text or "").strip():
            raise InputError("Speaking: found no text. Type one, or open a file.")
        bundle = self._bundles[self._desk.speakers.name(model)]
        usual = temperature == bundle.manifest.sampling.temperature
        try:
            return SpeechRequest.model_validate({
                "model": model, "input": text, "voice": voice or None, "effort": effort, "seed": seed or 0,
                "temperature": None if usual else temperature, "language": language or None,
                "target": target if effort != 1 and target != 1 else None, "judge": bundle.judge is not None,
            })  # fmt: skip
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"Reading the form: {place}: {first['msg']}. Correct it.") from None

    async def _stop(self, request: gr.Request) -> None:
        if take := self._running.get(str(request.session_hash)):
            take.stop()

    async def _leave(self, request: gr.Request) -> None:
        await self._stop(request)

    async def _result(self, take: Take, history: list[tuple[str, str]]) -> str:
        others = self._takes.beside(take, [id for _, id in history])
        return await asyncio.to_thread(telling.result, take, others)

    async def _again(self, id: str, history: list[tuple[str, str]], request: gr.Request) -> Updates:
        """Show an earlier take."""
        take = self._takes.find(id, _owner(request))
        if take is None or take.sound is None:
            gone = "Looking for an earlier take: it is not kept any more. Speak the text again."
            return {self.status: telling.refused(gone)}
        return {
            self.status: telling.status(None),
            self.player: await asyncio.to_thread(telling.player, take),
            self.result: await self._result(take, history),
        }

    async def _open(self, path: str) -> Updates:
        """Put an uploaded text into the form, the file itself being deleted."""
        try:
            parts = await asyncio.to_thread(parts_of, Path(path), self._desk.speakers.most_characters)
        except Exception as error:
            return {self.status: telling.refused(_message(error))}
        finally:
            Path(path).unlink(missing_ok=True)
        titles = list(dict.fromkeys(title for title, _ in parts))
        return {
            self.text: parts[0][1],
            self._parts: parts,
            self.part: gr.update(choices=titles, value=titles[0], visible=len(titles) > 1),
            self.status: telling.status(None),
        }

    def _choose(self, model: str) -> Updates:
        """Show what another model has."""
        bundle = self._bundles[self._desk.speakers.name(model)]
        languages = [("As the text suggests", ""), *((one, one) for one in bundle.manifest.lm.languages)]
        judged = bundle.judge is not None
        return {
            self.voice: gr.update(choices=self._voices(bundle), value=bundle.default_voice),
            self.effort: gr.update(interactive=True) if judged else gr.update(value=1, interactive=False),
            self.temperature: gr.update(value=bundle.manifest.sampling.temperature),
            self.language: gr.update(choices=languages, value="", visible=len(languages) > 2),
        }

    def _greet(self, model: str) -> Any:
        """Return the voices as they are now."""
        return gr.update(choices=self._voices(self._bundles[self._desk.speakers.name(model)]))

    async def _make(
        self, model: str, recording: str | None, said: str, name: str, agreed: bool, consent: str
    ) -> Updates:
        """Make a voice, the recording being deleted."""
        bundle = self._bundles[self._desk.speakers.name(model)]
        try:
            data = _checked(recording, said, name, agreed, consent)
            async with self._desk.readers:
                await asyncio.to_thread(add_voice, bundle, name.strip(), data, said, consent.strip())
        except Exception as error:
            return {self.made: telling.refused(_message(error))}
        if recording:
            Path(recording).unlink(missing_ok=True)
        voices, told = await asyncio.to_thread(self._voices, bundle), f"“{name.strip()}” is made and chosen."
        return {
            self.made: f'<p class="st-quiet" role="status">The voice {told}</p>',
            self.voice: gr.update(choices=voices, value=name.strip()),
            self.recording: None, self.said: "", self.name: "", self.agreed: False, self.consent: "",
        }  # fmt: skip

    def _voices(self, bundle: Bundle) -> list[str]:
        """Return the voices that a model can speak with: those of its own codec."""
        return [name for name in bundle.voices.names() if _fits(bundle, name)]


def _fits(bundle: Bundle, name: str) -> bool:
    try:
        return bundle.voices.get(name).codec == bundle.codec_name
    except (BundleError, ConfigError):
        return False


def _checked(recording: str | None, said: str, name: str, agreed: bool, consent: str) -> bytes:
    """Return the bytes of a recording, if a voice may be made of it.

    Raises:
        InputError, ConfigError: something is missing, or the file is too large.
    """
    doing = "Making a voice"
    if not agreed:
        raise ConfigError(f"{doing}: the consent is not ticked. Tick it if the speaker has agreed.")
    if not consent.strip():
        raise ConfigError(f"{doing}: found no statement of consent. Say who speaks and that they agree.")
    if not recording:
        raise InputError(f"{doing}: found no recording. Upload one, or record it.")
    if not said.strip():
        raise InputError(f"{doing}: found no transcript. Write down what is said in the recording.")
    if not name.strip():
        raise ConfigError(f"{doing}: found no name. Give it one, such as ada.")
    with open(recording, "rb") as file:
        data = file.read(MOST_SOUND + 1)
    if len(data) > MOST_SOUND:
        raise InputError(f"{doing}: found more than {MOST_SOUND} bytes. Give a shorter recording.")
    return data


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, LlasaError) else bug(error)[0]


def _owner(request: gr.Request) -> str:
    asked: Any = request.request
    return key_of(asked)
