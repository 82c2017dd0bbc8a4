"""The studio page, at `/` of the speech service: Gradio's form around the same desk that the API has.

Gradio takes seconds to load, so it is loaded beside a service that already answers. Must not know: sockets.
"""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from llasa.serve.guard import App, Message, Receive, Send
from llasa.serve.replies import install
from llasa.serve.studio.gate import Gate
from llasa.serve.studio.routes import add_studio
from llasa.serve.studio.takes import Takes

if TYPE_CHECKING:
    from llasa.serve.speech_api import Desk

UPLOAD = 20 << 20  # bytes of a file, as of any request
SWEPT_S, KEPT_S = 60, 600  # how often uploads are looked through, and how long one may lie
HEAD = '<link rel="stylesheet" href="studio/studio.css"><script src="studio/studio.js" defer></script>'
WAIT = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="1">'
    '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
    "<title>llasa</title>"
    '<p style="font:18px/1.5 system-ui;margin:20vh auto;text-align:center">The page is being loaded…</p>'
)


class Studio:
    """The page as an application: a notice until `run` has loaded it."""

    def __init__(self, desk: "Desk") -> None:
        self._desk, self._app = desk, None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        app: App = self._app or HTMLResponse(WAIT, 503, {"Retry-After": "1"})
        await app(scope, receive, send)

    async def run(self) -> None:
        """Load the page and keep it until this is cancelled; uploads are gone then."""
        folder = Path(tempfile.mkdtemp(prefix="llasa-studio-"))
        try:
            app = await asyncio.to_thread(_made, self._desk, folder)
            async with app.router.lifespan_context(app):
                self._app = Gate(app, folder)
                try:
                    await asyncio.to_thread(self._desk.speakers.load_judges)
                    await asyncio.get_running_loop().create_future()
                finally:
                    app.routes[-1].app.stop_event.set()  # Gradio's: open pages hang on to it
        finally:
            self._app = None
            shutil.rmtree(folder, ignore_errors=True)


def _made(desk: "Desk", folder: Path) -> Any:
    """Return an application of the page and of the routes of its sounds; the last route is Gradio's."""
    # Read when Gradio is loaded and when it keeps a file: it asks no other host, and writes nowhere else.
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    import gradio  # pyright: ignore[reportMissingImports]

    from llasa.serve.studio.form import Form
    from llasa.serve.studio.theme import theme

    app, takes = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), Takes()
    install(app, keyed=False)  # it describes no routes
    add_studio(app, desk, takes)
    with gradio.Blocks(
        title="llasa studio", analytics_enabled=False, fill_width=True, delete_cache=(SWEPT_S, KEPT_S)
    ) as blocks:
        Form(desk, takes, blocks)
    # Slots say who may speak; this only bounds what Gradio holds for them.
    blocks.queue(
        api_open=False, max_size=desk.slots.count + desk.slots.most_waiting, default_concurrency_limit=None
    )
    return gradio.mount_gradio_app(
        app, blocks, "/", footer_links=[], run_history=False, show_error=False, max_file_size=UPLOAD,
        ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme(), head=HEAD,
        favicon_path=str(Path(__file__).with_name("studio") / "favicon.svg"),
    )  # fmt: skip
