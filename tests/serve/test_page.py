"""The page in a real browser: draw, see results change, upload, clear."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
from small_index import serving, small_index

pytest.importorskip("fastapi", reason="zsml[serve] is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install 'zsml[test]'")

BROWSER = (
    os.environ.get("ZSML_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
if BROWSER is None:
    pytest.skip("no chromium found; on Debian: apt install chromium, or name one in ZSML_CHROMIUM", allow_module_level=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return small_index(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def address(index):
    from zsml.serve import Limits, create_app

    with serving(create_app(index, limits=Limits(rate=0)), seconds=60) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, request):
    """The page; a test that made an error appear in the console fails."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1100, "height": 700}}))
    context.set_default_timeout(8000)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if is_fault(message) else None)
    page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or errors.append(f"asks for {asked.url}"))
    page.goto(address)
    until(page, "document.getElementById('about').textContent.includes('40 images')")
    yield page
    context.close()
    assert not errors


def until(page, expression: str) -> None:
    """Wait until it holds. (Playwright's own way evaluates text within the page, which the page's policy forbids.)"""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never came true: {expression}")


def is_fault(message) -> bool:
    return message.type == "error" and "the server responded with a status of 415" not in message.text  # that one is asked for


def draw(page, points: list[tuple[float, float]]) -> None:
    box = page.locator("#canvas").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place)
    page.mouse.up()


def circle(x: float, y: float, r: float) -> list[tuple[float, float]]:
    return [(x + r * math.cos(t / 3), y + r * math.sin(t / 3)) for t in range(20)]


def results(page, change) -> list[str]:
    """The ids shown once `change()` has had its answer."""
    change()
    until(page, "timer === null && !asking && !again")
    return page.locator("#results li").evaluate_all("cards => cards.map((card) => card.dataset.id)")


def test_draw_see_results_change_upload_clear(page, index):
    assert page.locator("#hint").is_visible() and page.locator("#undo").is_disabled()
    first = results(page, lambda: draw(page, circle(0.5, 0.5, 0.3)))
    assert len(first) == 24 and not page.locator("#hint").is_visible()
    second = results(page, lambda: [draw(page, [(0.1, 0.1 * n), (0.9, 0.1 * n)]) for n in range(1, 9)])
    assert second != first
    card = page.locator("#results button").first
    label = index.items([int(second[0])])[0]["label"]
    distance = float(card.locator("i").inner_text())
    assert card.locator("b").inner_text() == label and 0 < distance < 2
    assert card.get_attribute("aria-label") == f"{label}, distance {distance:.3f}. Search with this image."
    state = page.locator("#state").inner_text()
    assert "24 of 40" in state and "Euclidean distance" in state and "encoder" in state and "ms in all" in state
    until(page, "[...document.querySelectorAll('#results img')].slice(0, 6).every((image) => image.naturalWidth > 0)")

    binary = results(page, lambda: page.get_by_role("radio", name="binary codes").check())
    assert binary != second and page.locator("#results i").first.inner_text().endswith(" of 16")
    results(page, lambda: page.get_by_role("radio", name="embeddings").check())

    number = 7
    uploaded = results(page, lambda: page.locator("#upload").set_input_files(index.image_path(number)))
    assert page.locator("#shown").is_visible()
    as_photo = results(page, lambda: page.get_by_role("radio", name="photo").check())
    assert as_photo[0] == str(number) and float(page.locator("#results i").first.inner_text()) < 1e-3
    assert uploaded != second
    assert results(page, lambda: page.get_by_role("button", name="Back to drawing").click()) == second
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelectorAll('#results li').length === 0")
    assert page.locator("#hint").is_visible() and page.locator("#empty").is_visible()


def test_click_a_result_to_search_with_it_and_undo(page):
    first = results(page, lambda: draw(page, circle(0.4, 0.4, 0.2)))
    near = results(page, lambda: page.locator("#results button").nth(3).click())
    assert near[0] == first[3] and "Nearest to this image" in page.locator("#state").inner_text()
    assert results(page, lambda: page.get_by_role("button", name="Back to drawing").click()) == first
    second = results(page, lambda: draw(page, [(0.1, 0.9), (0.9, 0.1), (0.9, 0.9)]))
    assert second != first
    assert results(page, lambda: page.keyboard.press("Control+z")) == first


def test_everything_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "canvas"
    assert page.evaluate("getComputedStyle(document.getElementById('sheet')).outlineStyle") == "solid"
    page.keyboard.press("Space")
    drawn = results(
        page, lambda: [page.keyboard.press(key) for key in ["Shift+ArrowRight"] * 3 + ["Shift+ArrowDown"] * 3 + ["Space"]]
    )
    assert drawn
    reached = set()
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName"))
        assert page.evaluate("document.activeElement === document.body || document.activeElement.matches(':focus-visible')")
    assert {"undo", "clear", "upload", "method", "count", "BUTTON"} <= reached
    again = results(page, lambda: page.keyboard.press("Enter"))  # on a result
    assert again and "Nearest to this image" in page.locator("#state").inner_text()


def test_a_file_that_is_no_image_is_refused_in_words(page, tmp_path, index):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(index.image_path(1)).read_bytes()[:60])
    with page.expect_response("**/api/search/image*"):
        page.locator("#upload").set_input_files(broken)
    page.wait_for_selector("#problem:not([hidden])")
    assert "Not searched: the image is damaged" in page.locator("#problem").inner_text()
    results(page, lambda: page.get_by_role("button", name="Clear").click() or draw(page, circle(0.5, 0.5, 0.3)))
    assert not page.locator("#problem").is_visible()


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_finger_draws(page):
    assert results(page, lambda: page.touchscreen.tap(180, 250))
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    small = page.locator("button:visible, .file, select:visible, .choice label:visible").evaluate_all(
        "all => all.map((one) => [one.outerHTML, one.getBoundingClientRect().height]).filter(([, high]) => high < 40)"
    )
    assert small == []  # for fingers
