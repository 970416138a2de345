"""The page for people in a real browser: what it shows is what the library computes.

It needs Debian's chromium. tests/integrations/web_screenshot.py makes the picture of docs/.
"""

import io
import re
import shutil
from pathlib import Path

import axe_core_python
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright
from server_process import ARTIFACTS, MINILM, Process

from tessera_onnx import (
    TesseraDense,
    TesseraMultiVector,
    TesseraReranker,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
)
from tessera_onnx.server import web

pytestmark = pytest.mark.integrations
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PANELS = ("text", "page", "forecast", "status")
HOSTILE = "<img src=x onerror=document.title='broken'> & <b>bread</b>"
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]


@pytest.fixture(scope="module")
def demo():
    process = Process("--web", command="demo")
    yield process.url
    assert process.stop()[0] == 0


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Open a server's page; what its console says and what it asks of others are faults."""
    contexts, faults = [], []

    def open_page(url, expected=None, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)

        def said(message):
            if message.type == "error" and not (expected and expected in message.text):
                faults.append(message.text)

        def asked(request):
            if not request.url.startswith((f"{url}/", "data:", "blob:")):
                faults.append(f"asks {request.url}")

        page.on("console", said)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", asked)
        page.goto(f"{url}/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, "\n".join(faults)


def turn(page, name):
    page.locator(f"nav a[href='#{name}']").click()
    page.locator(f"#{name}").wait_for()


def press(page, name, words):
    """Send a panel's form, and wait until its state has some words."""
    page.locator(f"#{name}-form button[type=submit]").click()
    page.locator(f"#{name}-state", has_text=words).wait_for()


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-"))


def rank(page, kind, model):
    """Rank the texts of the panel; the (score, document) that are shown."""
    page.locator("#text-model").select_option(f"{kind} {model}")
    press(page, "text", f"ranked by {model} ({kind})")
    rows = page.locator(".ranking > li")
    return [
        (number(row.locator(".score").inner_text()), row.locator(".found > p").first.inner_text())
        for row in rows.all()
    ]


def asked(page):
    documents = page.locator("#text-documents").input_value().splitlines()
    return page.locator("#text-query").input_value(), documents


def rows_of(table):
    """The cells of a table that stands in a closed <details>."""
    return [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]


def check_ranking(found, model, query, documents):
    expected = model.rank(query, documents)
    assert [text for _, text in found] == [documents[row.index] for row in expected]
    np.testing.assert_allclose(
        [score for score, _ in found], [row.score for row in expected], atol=2e-4
    )
    return documents[expected[0].index]


def test_dense_ranking(demo, visit):
    page = visit(demo)
    query, documents = asked(page)
    for name in (MINILM, "tessera-static-mini"):
        with TesseraDense(name) as model:
            check_ranking(rank(page, "dense", name), model, query, documents)
    assert "no tokens to show" in page.locator("#text-results").inner_text()


def test_multi_vector_ranking_and_its_tokens(demo, visit):
    page = visit(demo)
    query, documents = asked(page)
    found = rank(page, "multi-vector", MINILM)
    with TesseraMultiVector(MINILM) as model:
        best = check_ranking(found, model, query, documents)
        matches = model.explain(query, best)
    first = page.locator(".ranking > li").first
    shown = rows_of(first.locator("table"))
    assert [tuple(row[:2]) for row in shown] == [match[:2] for match in matches]
    products = [number(row[2]) for row in shown]
    np.testing.assert_allclose(products, [m.score for m in matches], atol=2e-4)
    assert sum(products) == pytest.approx(found[0][0], abs=2e-3)
    # Each marked word is a token that matches best, and each such token of the text is marked.
    marked = [mark.lower() for mark in first.locator("mark").all_text_contents()]
    wanted = {m.document_token for m in matches if not m.query_token.startswith("[")}
    assert set(marked) == {token for token in wanted if not token.startswith("[")}
    weights = first.locator("mark").evaluate_all(
        "marks => marks.map(mark => Number(mark.style.getPropertyValue('--weight')))"
    )
    assert max(weights) == 1.0
    assert min(weights) > 0


def test_sparse_ranking_and_its_terms(demo, visit):
    page = visit(demo)
    query, documents = asked(page)
    found = rank(page, "sparse", "splade-tiny")
    with TesseraSparse("splade-tiny") as model:
        best = check_ranking(found, model, query, documents)
        left, right = model.encode_query(query), model.encode_document(best)
        of_query = dict(zip(left.indices.tolist(), left.values.tolist(), strict=True))
        of_best = dict(zip(right.indices.tolist(), right.values.tolist(), strict=True))
        shared = [(of_query[i] * of_best[i], model.token(i)) for i in of_query if i in of_best]
    shown = rows_of(page.locator(".ranking > li").first.locator("table"))
    assert [row[0].removesuffix(" +") for row in shown] == [t for _, t in sorted(shared)[::-1]]
    np.testing.assert_allclose(
        [number(row[3]) for row in shown], sorted((p for p, _ in shared), reverse=True), atol=2e-4
    )
    in_text = {row[0] for row in shown if not row[0].endswith(" +")}
    assert in_text <= set(re.findall(r"\w+", best.lower()))


def test_a_query_that_is_too_long_is_told(demo, visit):
    page = visit(demo)
    page.locator("#text-query").fill("bread " * 300)
    for kind, model in (("dense", MINILM), ("sparse", "splade-tiny")):
        rank(page, kind, model)
        state = page.locator("#text-state").inner_text()
        assert "The model reads 256 of 302 tokens of the query." in state


def test_hostile_texts_are_texts(demo, visit):
    page = visit(demo)
    page.locator("#text-query").fill(HOSTILE)
    page.locator("#text-documents").fill(f"{HOSTILE}\n\n  a red car  \n<script>alert(1)</script>")
    page.on("dialog", lambda _: pytest.fail("a script ran"))
    for kind, model in (("multi-vector", MINILM), ("sparse", "splade-tiny"), ("dense", MINILM)):
        found = rank(page, kind, model)
        assert {text for _, text in found} == {HOSTILE, "a red car", "<script>alert(1)</script>"}
    assert page.locator("#text-results img, #text-results script, #text-results b").count() == 0
    assert "broken" not in page.title()
    page.locator("#text-documents").fill(" \n ")
    page.locator("#text-form button").click()
    page.locator("#text-error", has_text="at least one document").wait_for()


def picture():
    page = Image.new("RGB", (420, 120), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    pen.text((20, 20), "Heavy rain fell in March.", "black", font)
    pen.text((20, 70), "The harvest of wheat was good.", "black", font)
    stream = io.BytesIO()
    page.save(stream, "PNG")
    return stream.getvalue()


def check_map(page, query, image):
    """The regions, the ends of the legend and the colours are those of the library's map."""
    with TesseraVision("tessera-page-mini") as model:
        found = model.locate(query, image)
    rows = page.locator("#page-regions li button").all()
    assert rows[0].inner_text().split("\n")[0].startswith("all tokens")
    expected = sorted(found.regions, key=lambda region: -region.score)
    for row, region in zip(rows[1:], expected, strict=True):
        left, top, right, bottom = region.box
        assert row.locator(".token").inner_text() == region.token
        place = re.findall(r"\d+", row.locator(".place").inner_text())
        assert tuple(map(int, place)) == (left, right, top, bottom)
        score = number(row.locator(".number").inner_text())
        assert score == pytest.approx(region.score, abs=2e-4)
    mean = found.map.mean(axis=0)
    ends = [number(page.locator(f"#page-{end}").inner_text()) for end in ("low", "high")]
    np.testing.assert_allclose(ends, [np.nanmin(mean), np.nanmax(mean)], atol=2e-3)
    cells = pixels(page)
    assert cells.shape[:2] == (found.image.height, found.image.width)
    row, column = np.unravel_index(np.nanargmax(mean), mean.shape)
    x, y = (found.box[2] / mean.shape[1], found.box[3] / mean.shape[0])
    red, green, blue = cells[int((row + 0.5) * y), int((column + 0.5) * x)][:3].astype(int)
    assert red > green + 40
    assert red > blue + 40
    return found


def pixels(page):
    """The canvas as an array (height, width, 4)."""
    found = page.locator("#page-canvas").evaluate(
        """c => {
            const pen = c.getContext("2d");
            return [c.width, c.height, [...pen.getImageData(0, 0, c.width, c.height).data]];
        }"""
    )
    return np.array(found[2], np.uint8).reshape(found[1], found[0], 4)


@pytest.mark.slow
def test_the_example_page(demo, visit):
    page = visit(demo)
    turn(page, "page")
    file = (web.FOLDER / "page.png").read_bytes()
    press(page, "page", "tessera-page-mini read the example page")
    query = page.locator("#page-query").input_value()
    found = check_map(page, query, file)
    # A token's own map: other colours, and a box around its region.
    before = pixels(page)
    token = page.locator("#page-regions li button", has_text="fresh")
    token.focus()
    page.keyboard.press("Enter")
    assert token.get_attribute("aria-pressed") == "true"
    assert page.locator("#page-regions [aria-pressed=true]").count() == 1
    assert not np.array_equal(before, pixels(page))
    index = next(region.index for region in found.regions if region.token == "fresh")
    high = number(page.locator("#page-high").inner_text())
    assert high == pytest.approx(np.nanmax(found.map[index]), abs=2e-3)
    assert "the token “fresh”" in page.locator("#page-canvas").get_attribute("aria-label")


def test_a_page_that_is_chosen_or_dropped(demo, visit):
    page = visit(demo)
    turn(page, "page")
    content = picture()
    name = "<i>rain</i>.png"
    page.locator("#page-query").fill("rain")
    page.locator("#page-file").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )
    page.locator("#page-name", has_text=name).wait_for()
    press(page, "page", f"read {name}")
    check_map(page, "rain", content)
    page.locator("#page-example").click()
    page.locator("#page-name", has_text="The example page").wait_for()
    assert page.locator("#page-regions li").count() == 0
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
            return transfer;
        }""",
        list(content),
    )
    page.locator("#page-drop").dispatch_event("drop", {"dataTransfer": transfer})
    page.locator("#page-name", has_text="dropped.png").wait_for()
    press(page, "page", "read dropped.png")
    check_map(page, "rain", content)


def test_forecast(demo, visit):
    page = visit(demo)
    turn(page, "forecast")
    page.locator("#forecast-horizon").fill("30")
    press(page, "forecast", "30 steps forecast by tessera-bolt-mini from 96 values")
    series = [float(word) for word in page.locator("#forecast-series").input_value().split()]
    with TesseraTimeSeries("tessera-bolt-mini") as model:
        expected = model.forecast_quantiles(series, 30, LEVELS)[0]
        check_table(page, expected)
        assert page.locator("#forecast-chart svg path.band").count() == 2
        label = page.locator("#forecast-chart svg").get_attribute("aria-label")
        assert label.startswith("Forecast of 30 steps by tessera-bolt-mini")
        check_median(page, expected[:, 2])
        series = [*series[:40], None, *series[41:80]]
        text = ", ".join("nan" if value is None else str(value) for value in series)
        page.locator("#forecast-series").fill(text)
        press(page, "forecast", "from 80 values")
        gap = [np.nan if value is None else value for value in series]
        check_table(page, model.forecast_quantiles(gap, 30, LEVELS)[0])


def check_table(page, expected):
    rows = rows_of(page.locator("#forecast-table table"))
    assert [row[0] for row in rows] == [f"+{i + 1}" for i in range(len(expected))]
    shown = [[number(cell) for cell in row[1:]] for row in rows]
    np.testing.assert_allclose(shown, expected, rtol=1e-4)


def check_median(page, values):
    """The line of the median has the shape of the values: heights are linear in them."""
    path = page.locator("#forecast-chart path.median").get_attribute("d")
    points = np.array([list(map(float, p.split())) for p in re.findall(r"[\d.]+ [\d.]+", path)])
    heights = points[1:, 1]  # the first point is the last value of the history
    slope, start = np.polyfit(values, heights, 1)
    assert slope < 0
    np.testing.assert_allclose(slope * values + start, heights, atol=0.2)


def test_errors_are_sentences(demo, visit):
    page = visit(demo, expected="status of 400")
    turn(page, "forecast")
    press(page, "forecast", "24 steps")
    page.locator("#forecast-series").fill("1 2 three")
    page.locator("#forecast-form button").click()
    page.locator("#forecast-error", has_text="Value 3 is no number: “three”.").wait_for()
    assert page.locator("#forecast-chart svg").count() == 0  # of the run before
    page.locator("#forecast-series").fill("1 2 3 4")
    page.locator("#forecast-horizon").fill("100000000000")
    page.locator("#forecast-form button").click()
    page.locator(
        "#forecast-error", has_text="the answer would hold 500000000000 numbers"
    ).wait_for()
    turn(page, "page")
    page.locator("#page-file").set_input_files(
        {"name": "no.png", "mimeType": "image/png", "buffer": b"no image"}
    )
    page.locator("#page-name", has_text="no.png").wait_for()
    page.locator("#page-form button[type=submit]").click()
    page.locator("#page-error", has_text="image").wait_for()
    assert page.locator("#page-error").get_attribute("role") == "alert"


def test_status(demo, visit):
    import onnxruntime

    from tessera_onnx import __version__
    from tessera_onnx.runtime import cpu

    page = visit(demo)
    turn(page, "status")
    page.locator("#status-models table").wait_for()
    facts = page.locator("#status-facts").inner_text()
    for words in (__version__, onnxruntime.__version__, cpu.physical_summary()):
        assert words in facts
    rows = rows_of(page.locator("#status-models table"))
    names = {row[0]: row[1] for row in rows}
    assert names[MINILM] == "dense, multi-vector"
    assert set(names) >= {"splade-tiny", "tessera-page-mini", "tessera-bolt-mini"}
    assert "tessera pull ms-marco-minilm-l-6-v2" in page.locator("#status-missing").inner_text()
    option = page.locator("#text-model optgroup[label=reranker] option")
    assert option.text_content() == "none: tessera pull ms-marco-minilm-l-6-v2"
    assert option.is_disabled()


def test_kinds_that_the_starter_lacks(visit):
    """A reranker, a model of one value a step, a model of a whole grid, and BM25."""
    names = ("reranker", "ttm", "colpali")
    process = Process(*(str(ARTIFACTS / name) for name in names), "bm25", "--web")
    try:
        page = visit(process.url)
        query, documents = asked(page)
        with TesseraReranker(path=ARTIFACTS / "reranker", on_long="truncate") as model:
            check_ranking(rank(page, "reranker", model.model()), model, query, documents)
        hints = page.locator(".ranking .hint").all_text_contents()
        assert len(hints) == len(documents)
        assert all(re.fullmatch(r"The model reads 64 of \d+ tokens\.", hint) for hint in hints)
        with TesseraSparse("bm25") as model:
            left, right = model.encode_query(query), model.encode_batch(documents)
            dots = [
                sum(w * dict(zip(*row, strict=True)).get(i, 0) for i, w in zip(*left, strict=True))
                for row in right
            ]
        shown = [score for score, _ in rank(page, "sparse", "bm25")]
        np.testing.assert_allclose(shown, sorted(dots, reverse=True), atol=2e-4)
        assert "hashes of words" in page.locator("#text-results").inner_text()
        turn(page, "forecast")
        with TesseraTimeSeries(path=ARTIFACTS / "ttm") as model:
            values = [round(10 + i % 7, 1) for i in range(model.spec.time_series.context_length)]
            steps = model.prediction_length()
            page.locator("#forecast-series").fill(" ".join(map(str, values)))
            page.locator("#forecast-horizon").fill(str(steps))
            press(page, "forecast", f"{steps} steps forecast by {model.model()}")
            check_table(page, model.forecast(values, steps)[0][:, None])
        assert page.locator("#forecast-chart path.band").count() == 0
        turn(page, "page")
        page.locator("#page-query").fill("rain")
        press(page, "page", "read the example page")
        with TesseraVision(path=ARTIFACTS / "colpali") as model:
            found = model.locate("rain", (web.FOLDER / "page.png").read_bytes())
        mean = found.map.mean(axis=0)
        ends = [number(page.locator(f"#page-{end}").inner_text()) for end in ("low", "high")]
        np.testing.assert_allclose(ends, [np.nanmin(mean), np.nanmax(mean)], atol=2e-3)
    finally:
        process.stop()


def test_a_server_without_some_kinds(visit):
    process = Process("tessera-static-mini", "--web")
    try:
        page = visit(process.url)
        for name, kind in (("page", "vision"), ("forecast", "time-series")):
            turn(page, name)
            notice = page.locator(f"#{name} .notice")
            notice.wait_for()
            assert kind in notice.inner_text()
            assert "pip install PATH/starter" in notice.inner_text()
            assert not page.locator(f"#{name}-form").is_visible()
        turn(page, "text")
        assert rank(page, "dense", "tessera-static-mini")
    finally:
        process.stop()


def test_a_key_is_asked_for_and_kept_in_memory_alone(visit, tmp_path):
    (tmp_path / "keys").write_text("secret-key\n")
    process = Process("tessera-static-mini", "--web", "--keys", str(tmp_path / "keys"))
    try:
        page = visit(process.url, expected="status of 401")
        page.locator("#key").wait_for()
        page.keyboard.type("wrong")  # the field has the focus
        page.keyboard.press("Enter")
        page.locator("#key-error", has_text="the key is missing or wrong").wait_for()
        page.locator("#key-value").fill("secret-key")
        page.locator("#key-form button[type=submit]").click()
        page.locator("#text-model option", has_text="tessera-static-mini").wait_for(
            state="attached"
        )
        assert not page.locator("#key").is_visible()
        assert len(rank(page, "dense", "tessera-static-mini")) == 5
        kept = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert kept == ["", 0, 0]
        page.reload()
        page.locator("#key").wait_for()
        assert page.locator("#key-value").input_value() == ""
        page.keyboard.press("Escape")
        page.locator("#server", has_text="No answer").wait_for()
    finally:
        process.stop()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("width", [1280, 390])
def test_names_contrast_and_width(demo, visit, width, scheme):
    """axe's rules of WCAG 2 A and AA in each panel with its results, and no sideways scrolling."""
    page = visit(demo, viewport={"width": width, "height": 844}, color_scheme=scheme)
    faults = []
    for name in PANELS:
        turn(page, name)
        if name == "text":
            rank(page, "multi-vector", MINILM)
            page.locator(".ranking summary").first.click()
        elif name == "status":
            page.locator("#status-models table").wait_for()
        else:
            press(page, name, "tessera-")
            if name == "forecast":
                page.locator("#forecast-table summary").click()
        page.evaluate(AXE)
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
        found = page.evaluate("rules => axe.run(document, rules)", rules)
        faults += [
            (name, fault["id"], fault["nodes"][0]["html"][:120], len(fault["nodes"]))
            for fault in found["violations"]
        ]
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{name}: {wide} pixels too wide"
    assert not faults, "\n".join(map(str, faults))


def test_the_keyboard_is_enough(demo, visit):
    page = visit(demo)
    page.locator("#text-model option", has_text=MINILM).first.wait_for(state="attached")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#page").wait_for()
    assert page.evaluate("document.activeElement.id") == "page-title"
    page.go_back()
    page.locator("#text-query").focus()
    page.keyboard.press("Enter")
    page.locator("#text-state", has_text="5 documents ranked").wait_for()
    assert page.locator("#text-state").get_attribute("role") == "status"
