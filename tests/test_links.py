"""Every link of the README, of docs/ and of the other pages of a checkout leads somewhere.

Relative links name a file, and a heading of it where they have an anchor. Links to other sites are
not fetched: they must be https addresses with a host.
"""

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    *sorted(
        path
        for path in (ROOT / "docs").glob("**/*.md")
        if not {"_build", "reference"} & set(path.parts)  # both are made
    ),
]
# Made when the site is built, or a page that stands for a file of the root.
REFERENCE = {"models", "results", "clients", "errors", "commands", "http"}
SHOWN = {"security": "SECURITY.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
OF_SPHINX = {"search", "genindex", "modindex", "py-modindex"}  # pages that it writes itself


def prose(text):
    """A page without its code, where brackets are no links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", text)


def links(page):
    """The targets of links and pictures."""
    text = prose(page.read_text("utf-8"))
    yield from re.findall(r"\]\(<?([^()<>\s]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\)", text)
    yield from re.findall(r"^\[[^\]]+\]:\s+<?(\S+?)>?$", text, re.MULTILINE)
    yield from re.findall(r"<(https?:[^>\s]+)>", text)


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = {}
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
        kept = (c for c in words if c in " -_" or unicodedata.category(c)[0] in "LN")
        slug = "".join(kept).replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        yield f"{slug}-{count}" if count else slug


def broken(page, target):
    """What is wrong with a link; "" where it leads somewhere."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        well_formed = parts.scheme == "https" and re.fullmatch(
            r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc
        )
        return "" if well_formed else "is no https address"
    place = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if place.parent == ROOT / "docs" / "reference" and place.stem in REFERENCE:
        return ""
    if not place.is_relative_to(ROOT) or not place.exists():
        return "names no file"
    if not parts.fragment:
        return ""
    if place.parent == ROOT / "docs" and place.stem in SHOWN:
        place = ROOT / SHOWN[place.stem]
    if place.suffix != ".md" or parts.fragment not in set(anchors(place)):
        return "names no heading of that file"
    return ""


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page):
    place = ROOT / page
    found = {target: broken(place, target) for target in links(place)}
    assert not {target: fault for target, fault in found.items() if fault}


def test_there_are_links_to_check():
    assert sum(len(list(links(page))) for page in PAGES) > 100


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("docs/texts.md", ""),
        ("docs/texts.md#dense-one-vector-a-text", ""),
        ("docs/texts.md#no-such-title", "names no heading of that file"),
        ("docs/no-such-page.md", "names no file"),
        ("../elsewhere", "names no file"),
        ("docs/security.md#no-such-title", "names no heading of that file"),
        ("https://example.org/a#b", ""),
        ("http://example.org", "is no https address"),
        ("https:/example.org", "is no https address"),
        ("https://localhost", "is no https address"),
    ],
)
def test_a_broken_link_is_found(target, fault):
    assert broken(ROOT / "README.md", target) == fault


def test_every_page_is_in_the_navigation_and_has_a_name_of_its_own():
    """Sphinx writes search.html and its like over a page of that name, without a warning."""
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.MULTILINE | re.DOTALL)
    lines = [line for tree in trees for line in tree.splitlines() if line[:1] not in {":", ""}]
    named = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in lines]
    assert len(set(named)) == len(named)
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert set(named) >= pages
    assert not OF_SPHINX & pages


def test_links_between_pages_are_named_by_the_page():
    """The name of a file says nothing to a reader of the site."""
    pages = (page for page in PAGES if page.parent.name == "docs")
    named = {
        page.name: re.findall(r"\[(?:docs/)?[\w-]+\.md\]\([^)]*\)", page.read_text("utf-8"))
        for page in pages
    }
    assert not {name: found for name, found in named.items() if found}
