"""The site in a real browser: every page renders, the search finds, nothing overflows or fails.

It needs Debian's chromium, and sphinx with the extra `docs`.
"""

import functools
import html.parser
import http.server
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import axe_core_python
import pytest
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.integrations
DOCS = Path(__file__).parents[2] / "docs"
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
WIDTHS = (1280, 390)  # a laptop, a phone
# A page of each sort.
SORTS = (
    "index",
    "get-started",
    "models",
    "rag",
    "reference/models",
    "reference/commands",
    "notebooks/search",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The site, built by `make docs`, and its address."""
    folder = DOCS / "_build" / "html"
    command = ["make", "docs", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=DOCS.parent, check=True, timeout=300)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=BROWSER, args=flags)
        yield found
        found.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_renders(site, browser, width):
    folder, url = site
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
    pages = [page for page in pages if not page.startswith(("genindex", "_", "py-modindex"))]
    assert len(pages) > 20
    faults = []
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and faults.append((page.url, m.text)))
        page.on("pageerror", lambda error: faults.append((page.url, str(error))))
        # A request is aborted where the next page is opened before the icon of this one has come.
        page.on(
            "requestfailed",
            lambda request: (
                request.failure == "net::ERR_ABORTED"
                or faults.append((page.url, request.url, request.failure))
            ),
        )
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:"))
                or faults.append((page.url, f"asks {request.url}"))
            ),
        )
        for name in pages:
            page.goto(f"{url}/{name}", wait_until="load")
            if name != "search.html":
                assert page.locator("h1").count() == 1, name
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            if wide > 1:
                faults.append((name, f"{wide} pixels too wide"))
    assert not faults, "\n".join(map(str, faults))


class Targets(html.parser.HTMLParser):
    """The ids of a page, and where its links, pictures and scripts lead."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, _, attrs):
        for name, value in attrs:
            if name in {"id", "name"}:
                self.ids.add(value)
            elif name in {"href", "src"} and value:
                self.targets.append(value)


def test_every_link_of_the_site_leads_somewhere(site):
    folder, _ = site
    pages = {page: Targets(page) for page in folder.rglob("*.html")}
    faults = []
    for page, found in pages.items():
        for target in found.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = urllib.parse.unquote(parts.path)
            place = (page.parent / path).resolve() if path else page
            wrong = not place.exists()
            if not wrong and parts.fragment and place in pages:
                wrong = urllib.parse.unquote(parts.fragment) not in pages[place].ids
            if wrong:
                faults.append((str(page.relative_to(folder)), target))
    assert sum(len(found.targets) for found in pages.values()) > 1000
    assert not faults, "\n".join(map(str, faults[:40]))


def test_a_property_has_its_words_in_their_order(site):
    folder, _ = site
    text = (folder / "reference" / "models.html").read_text("utf-8")
    assert "<p>The device that the model really runs on, such as" in text


def test_the_search_finds_a_page(site, browser):
    _, url = site
    page = browser.new_page()
    page.goto(f"{url}/search.html?q=MaxSim")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    titles = page.locator("#search-results li > a").all_inner_texts()
    assert any("TesseraMultiVector" in title or "Speed" in title for title in titles), titles
    page.close()


@pytest.mark.slow
def test_names_and_contrast(site, browser):
    """axe's rules of WCAG 2 A and AA, on a page of each sort."""
    _, url = site
    page = browser.new_page()
    faults = []
    for name in SORTS:
        page.goto(f"{url}/{name}.html")
        page.evaluate(AXE)
        rules = {"runOnly": ["wcag2a", "wcag2aa"]}
        found = page.evaluate("rules => axe.run(document, rules)", rules)
        faults += [
            (name, fault["id"], fault["nodes"][0]["html"][:120], len(fault["nodes"]))
            for fault in found["violations"]
        ]
    page.close()
    assert not faults, "\n".join(map(str, faults))
