"""Make the picture of the page that docs/ shows: docs/_static/web.png.

    python tests/integrations/web_screenshot.py

It needs what tests/integrations/test_web.py needs. The time that the page shows is left out: it is
that of the machine which took the picture.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from server_process import MINILM, Process  # noqa: E402

FILE = ROOT / "docs" / "_static" / "web.png"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
COLOURS = 255


def take(url):
    """The panel of texts with a ranking, as the bytes of a PNG."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 830})
        page.goto(f"{url}/")
        page.locator("#text-model").select_option(f"multi-vector {MINILM}")
        for _ in range(2):  # the first opens the model
            page.locator("#text-form button").click()
            page.locator("#text-state", has_text="ranked by").wait_for()
        page.locator(".ranking mark").first.wait_for()
        state = page.locator("#text-state")
        state.evaluate("e => { e.textContent = e.textContent.replace(/ [0-9]+ ms[.]$/, ''); }")
        found = page.screenshot()
        browser.close()
    return found


if __name__ == "__main__":
    process = Process("--web", command="demo")
    try:
        picture = Image.open(io.BytesIO(take(process.url))).convert("RGB")
    finally:
        process.stop()
    picture.quantize(COLOURS).save(FILE, optimize=True)
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")  # noqa: T201
