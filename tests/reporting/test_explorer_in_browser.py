"""The explorer's page in a headless Chromium: what a user does changes what is seen.

Skipped where Playwright or the browser is not there, unless REQUIRE_BROWSER is set.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.exploring import make_dataset, make_replica
from vae_jax.reporting import explorer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = pytest.mark.slow


def give_up(reason):
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright import sync_api
    except ImportError:
        give_up("Playwright is not installed: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(path).exists():
            give_up("there is no Chromium: apt-get install chromium")
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
    page.wait_for_selector("#nearest[aria-label]")
    yield page
    context.close()
    assert messages == []
    assert [each for each in addresses if not each.startswith("data:")] == [path.as_uri()]


def pixels(page, selector):
    return page.locator(selector).evaluate("canvas => canvas.toDataURL()")


def test_pointing_changes_the_images(page):
    seen = [(pixels(page, "#decoded"), pixels(page, "#nearest"))]
    box = page.locator("#map").bounding_box()

    def at(fraction):
        return box["x"] + fraction * box["width"], box["y"] + fraction * box["height"]

    def look(told_before):
        page.wait_for_function(
            "before => document.getElementById('place').textContent !== before", arg=told_before
        )
        seen.append((pixels(page, "#decoded"), pixels(page, "#nearest")))

    told = page.locator("#place").text_content()
    page.mouse.move(*at(0.1))
    look(told)
    told = page.locator("#place").text_content()
    page.touchscreen.tap(*at(0.9))
    look(told)
    for images in zip(*seen, strict=True):
        assert len({*images}) == 3
    assert "column 29 and row 29 of 32" in page.locator("#place").text_content()
    page.locator("#map").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert "column 28 and row 28 of 32" in page.locator("#place").text_content()
    assert pixels(page, "#decoded") != seen[-1][0]


def test_pointing_at_a_dot_shows_its_image(page):
    data = page.evaluate("data")
    box = page.locator("#map").bounding_box()
    x, y = data["points"][11]
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    told = page.locator("#nearest").get_attribute("aria-label")
    assert told.startswith(f"Nearest test image {data['rows'][11]}")
    assert told.endswith("class cat" if data["labels"] else "image 11")


def test_the_legend_shows_a_class_alone(page):
    if not page.evaluate("data.isColored"):
        assert page.locator("#legend").count() == 0
        return
    button, before = page.get_by_role("button", name="dog"), pixels(page, "#map")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert pixels(page, "#map") != before
    assert "class dog" in page.locator("#place").text_content()
    button.click()
    assert pixels(page, "#map") == before


def test_sliders_move_what_is_decoded(page):
    sliders = page.locator("#variables input")
    assert sliders.count() == page.locator("#variables canvas").count() == 10
    slider, image = sliders.nth(3), "#variables div:nth-child(4) canvas"
    seen = {pixels(page, image)}
    for value in range(15):
        slider.fill(str(value))
        seen.add(pixels(page, image))
    assert len(seen) == 15
    assert slider.get_attribute("aria-valuetext") == "3.0 standard deviations"
    slider.press("ArrowLeft")
    assert slider.input_value() == "13"
    before = pixels(page, image)
    page.locator("#start input").nth(1).check()
    assert pixels(page, image) != before


def test_an_interpolation_leads_from_one_image_to_the_other(page):
    def walk(first, last):
        page.locator("#from input").nth(first).check()
        page.locator("#to input").nth(last).check()
        images = []
        for step in range(9):
            page.locator("#step").fill(str(step))
            images.append(pixels(page, "#interpolated"))
        return images

    there, back = walk(2, 9), walk(9, 2)
    assert len({*there}) == 9
    assert back == there[::-1]
    assert {*walk(2, 2)} == {there[0]}
    assert pixels(page, "#first") == pixels(page, "#last")


def test_the_button_shows_other_samples(page):
    images = "#samples canvas >> nth=5"
    seen = {pixels(page, images)}
    for _ in range(19):
        page.locator("#more").click()
        seen.add(pixels(page, images))
    assert page.locator("#shown").text_content() == "Samples 305 to 320 of 320"
    assert len(seen) == 20


def test_everything_has_a_name_and_fits_the_window(page):
    unnamed = page.evaluate(
        """[...document.querySelectorAll("canvas, input, button")].filter((element) =>
        !element.ariaHidden && !(element.ariaLabel || element.getAttribute("aria-labelledby") ||
        element.labels?.length || element.textContent)).length"""
    )
    assert unnamed == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
