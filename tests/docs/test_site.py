"""The site is built, and what its pages show is what was meant."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llasa
from llasa.scorers.base import BUILT_IN

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'(?:href|src)="([^"#]+)')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return folder


def shown(site: Path) -> dict[Path, str]:
    """Return the pages that there are, as HTML."""
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert len(pages) > 20
    return pages


def test_blocks_of_code_are_shown_as_such(site: Path):
    assert not [page.name for page, text in shown(site).items() if "```" in text]


def test_links_within_the_site_lead_somewhere(site: Path):
    links = [(page, link) for page, text in shown(site).items() for link in LINK.findall(text)]
    local = [(page, link) for page, link in links if not re.match(r"[a-z]+:|//|/", link)]
    assert len(local) > 100
    assert not [(page.name, link) for page, link in local if not (page.parent / link).exists()]


def test_nothing_is_fetched_from_elsewhere(site: Path):
    fetched = re.compile(r'<(?:script|img|link rel="(?:stylesheet|preconnect)")[^>]*(?:href|src)="https?:')
    assert not [page.name for page, text in shown(site).items() if fetched.search(text)]


def test_the_reference_has_all_public_names_and_scorers(site: Path):
    told = set(re.findall(r'id="([\w.]+)"', (site / "reference.html").read_text(encoding="utf-8")))
    names = {f"{getattr(llasa, name).__module__}.{name}" for name in llasa.__all__}
    assert names | {path.replace(":", ".") for path in BUILT_IN.values()} <= told
