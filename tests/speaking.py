"""A speech service in a thread of the test's own process, over any bundles."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llasa.bundle import load_bundle
from llasa.serve.guard import Rules
from llasa.serve.speaking import Speakers
from llasa.serve.speech_api import Desk, Limits, make_app
from llasa.synthesizer import Synthesizer
from tests.judging import served


@contextmanager
def speaking(
    *folders: object,
    rules: Rules | None = None,
    limits: Limits | None = None,
    most_effort: int = 4,
    books: Path | None = None,
) -> Iterator[tuple[str, Speakers]]:
    """Serve bundles; gives the service's URL and what speaks."""
    bundles = [load_bundle(str(folder)) for folder in folders]
    speakers = Speakers({bundle.name: Synthesizer(bundle) for bundle in bundles}, most_effort, 400)
    for speaker in speakers.speakers.values():
        speaker.warm_up()
    with served(make_app(Desk.open(speakers, limits or Limits()), rules or Rules(), books=books)) as url:
        yield url, speakers
