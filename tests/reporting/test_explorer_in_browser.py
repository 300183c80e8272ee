"""The explorer's page in a headless Chromium: a user's actions change the images.

Skipped without Playwright or the browser, unless REQUIRE_BROWSER is set.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from tests.support.exploring import make_dataset, make_replica
from vae_jax.reporting import explorer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@pytest.fixture(scope="module")
def browser():
    skip = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
    if not importlib.util.find_spec("playwright"):
        skip("Playwright is not installed: pip install playwright")
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(path).exists():
            skip("Chromium is not installed: apt-get install chromium")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(
    scope="module",
    params=[((28, 28, 1), ("cat", "dog"), WIDE), ((16, 24, 3), (), NARROW)],
    ids=["gray in classes, wide window", "color without labels, narrow window"],
)
def path_and_window(request, tmp_path_factory):
    """A page, and the window to open it in."""
    shape, class_names, window = request.param
    folder = tmp_path_factory.mktemp("page")
    dataset = make_dataset(shape, class_names=class_names)
    path = folder / "explorer.html"
    path.write_text(explorer.render(make_replica(folder, 12, shape), dataset))
    return path, window


@pytest.fixture
def page(browser, path_and_window):
    """The page, open; nothing may be on the console, nothing be asked of a network."""
    path, window = path_and_window
    context = browser.new_context(viewport=window, has_touch=True)
    page, messages, addresses = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda asked: addresses.append(asked.url))
    page.goto(path.as_uri())
    page.wait_for_selector("#samples [aria-label]")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    yield page
    context.close()
    assert messages == []
    assert [each for each in addresses if not each.startswith("data:")] == [path.as_uri()]


def pixels(page, selector):
    return page.locator(selector).evaluate("canvas => canvas.toDataURL()")


def test_pointing_changes_the_images(page):
    box, seen = page.locator("#map").bounding_box(), []

    def at(fraction):
        return box["x"] + fraction * box["width"], box["y"] + fraction * box["height"]

    for act, cell in (
        (lambda: page.mouse.move(*at(0.1)), "column 4 and row 4"),
        (lambda: page.touchscreen.tap(*at(0.9)), "column 29 and row 29"),
        (lambda: page.locator("#map").press("ArrowLeft"), "column 28 and row 29"),
    ):
        act()
        page.wait_for_selector(f"#place:has-text('{cell}')")
        seen.append((pixels(page, "#decoded"), pixels(page, "#nearest")))
    assert len({decoded for decoded, _ in seen}) == 3
    assert seen[0][1] != seen[1][1]


def test_sliders_move_a_latent_variable(page):
    sliders = page.locator("#variables input")
    assert sliders.count() == page.locator("#variables canvas").count() == 10
    slider, image, seen = sliders.nth(3), "#variables div:nth-child(4) canvas", set()
    for value in range(15):
        slider.fill(str(value))
        seen.add(pixels(page, image))
    assert len(seen) == 15
    assert slider.get_attribute("aria-valuetext") == "3.0 standard deviations"


def test_the_button_shows_other_samples(page):
    seen = {pixels(page, "#samples canvas >> nth=5")}
    for _ in range(19):
        page.locator("#more").click()
        seen.add(pixels(page, "#samples canvas >> nth=5"))
    assert len(seen) == 20
