"""examples/web.py in a real browser, headless: what a visitor sees and gets."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from mindone_vq.batch import describe

pytestmark = pytest.mark.web
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
MINUTES = 120_000  # milliseconds
RED = "a large red circle on a white background"
SCREENSHOTS = os.environ.get("WEB_SCREENSHOTS")  # a folder to keep them in


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("web")
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "files")}
    with open(folder / "log", "w+") as log:
        command = [sys.executable, EXAMPLES / "web.py", "--port", str(port)]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        assert server.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}"
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address, request):
    """Opens the page in a session of its own, and waits until it is ready."""
    pages = []

    def open_page(**options):
        pages.append(browser.new_context(**options).new_page())
        pages[-1].set_default_timeout(MINUTES)
        pages[-1].goto(address)
        expect(pages[-1].locator("#state")).to_contain_text("Ready.", timeout=MINUTES)
        return pages[-1]

    yield open_page
    for i, page in enumerate(pages):
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS) / f"{request.node.name}_{i}.png", full_page=True)
        page.context.close()


def settings(page, **values):
    """Writes values into the fields of the settings, by their ids."""
    if not page.locator("#steps input[type=number]").is_visible():
        page.get_by_role("button", name="Settings").click()
        page.wait_for_timeout(1000)  # while the panel opens, Gradio may write the defaults over what is typed
    for name, value in values.items():
        field = page.locator(f"#{name} input[type=number], #{name} input:not([type])").first
        field.fill(str(value))
        field.press("Tab")
        expect(field).to_have_value(str(value))


def picture(page, name, index=0):
    image = page.locator(f"#{name}-pictures img").nth(index)
    answer = page.request.get(image.get_attribute("src"))
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB")).astype(int)


def finished(page, name, how="Done"):
    expect(page.locator(f"#{name}-said")).to_contain_text(how, timeout=MINUTES)


def is_red(pixels):
    return (pixels[..., 0] > 150) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)


def test_the_picture_forms_and_is_what_was_asked_for(visit):
    page = visit()
    page.locator("#prompt textarea").fill(RED)
    settings(page, seed=3, steps=100)
    page.locator("#text-draw").click()
    said, frames = set(), set()
    while "Done" not in (text := page.locator("#text-said").inner_text()):
        said.add(text)
        image = page.locator("#text-pictures img").first
        if image.count():
            frames.add(image.get_attribute("src"))
        time.sleep(0.05)
    assert len(frames) >= 3 and any(re.search(r"Step \d+ of 100; \d+ s left", text) for text in said)
    pixels = picture(page, "text")
    assert pixels.shape == (256, 256, 3)
    assert 0.05 < is_red(pixels).mean() < 0.5 and (pixels[:8, :8] > 200).all()
    with page.expect_download() as download:
        page.locator("#text-files a").first.click()
    about = describe(download.value.path())
    assert about["prompt"] == RED and about["seed"] == 3 and about["num_inference_steps"] == 100
    expect(page.locator("#session img")).to_have_count(1)


def test_the_same_again_with_another_seed(visit):
    page = visit()
    page.locator("#prompt textarea").fill(RED)
    settings(page, seed=3, steps=10, count=2)
    page.locator("#text-draw").click()
    finished(page, "text", "Seed 3.")
    first = [picture(page, "text", i) for i in range(2)]
    assert not np.array_equal(*first)
    page.locator("#text-again").click()
    expect(page.locator("#text-said")).not_to_contain_text("Seed 3.", timeout=MINUTES)
    finished(page, "text", "Seed ")
    assert not np.array_equal(first[0], picture(page, "text"))
    expect(page.locator("#session img")).to_have_count(4)


def test_cancelling_ends_it_within_a_step(visit):
    page = visit()
    page.locator("#prompt textarea").fill(RED)
    settings(page, steps=100, count=4)
    page.locator("#text-draw").click()
    expect(page.locator("#text-said")).to_contain_text("Step ", timeout=MINUTES)
    began = time.monotonic()
    page.locator("#text-cancel").click()
    finished(page, "text", "Cancelled.")
    assert time.monotonic() - began < 5
    expect(page.locator("#session img")).to_have_count(0)


def test_inpainting_with_a_drawn_mask_changes_what_was_painted(visit, tmp_path):
    Image.new("RGB", (64, 64), (245, 245, 245)).save(tmp_path / "white.png")
    page = visit()
    page.locator("#prompt textarea").fill(RED)
    settings(page, steps=25, seed=1)
    page.get_by_role("tab", name="Inpaint").click()
    page.locator("#editor input[type=file]").first.set_input_files(tmp_path / "white.png")
    canvas = page.locator("#editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)
    page.locator("#editor button[aria-label*=Brush], #editor button[title*=Brush]").first.click()
    box = canvas.bounding_box()
    middle_x, middle_y, half = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 24
    for i in range(-half, half + 1, 4):  # strokes over the middle
        page.mouse.move(middle_x - half, middle_y + i)
        page.mouse.down()
        page.mouse.move(middle_x + half, middle_y + i, steps=4)
        page.mouse.up()
    page.locator("#inpaint-draw").click()
    finished(page, "inpaint")
    pixels = picture(page, "inpaint")
    changed = np.abs(pixels - 245).max(-1) > 60
    assert changed.any() and is_red(pixels).any()
    assert not changed[:4].any() and not changed[-4:].any()  # what was not painted is as it was


def test_image_to_image_and_variations(visit, tmp_path):
    Image.new("RGB", (64, 64), (245, 245, 245)).save(tmp_path / "white.png")
    page = visit()
    page.get_by_role("tab", name="Image to image").click()
    page.locator("#image input[type=file]").first.set_input_files(tmp_path / "white.png")
    page.locator("#image img").wait_for()
    settings(page, steps=10, seed=1)
    page.locator("#change-draw").click()
    finished(page, "change")
    expect(page.locator("#session img")).to_have_count(1)


def test_samplers_are_compared(visit):
    page = visit()
    page.locator("#prompt textarea").fill(RED)
    page.get_by_role("tab", name="Compare samplers").click()
    for name in ("purity", "confidence", "halton"):
        page.get_by_label(name, exact=True).uncheck()
    page.locator("#compare-draw").click()
    page.locator("#compare-picture img").wait_for()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        answer = page.request.get(page.locator("#compare-picture img").first.get_attribute("src"))
        cells = np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB")).astype(int)
        if is_red(cells[:, -128:]).mean() > 0.03:
            break
        time.sleep(0.5)
    assert is_red(cells[:, -128:]).mean() > 0.03


def test_what_cannot_be_drawn_is_said(visit):
    page = visit()
    page.locator("#text-draw").click()
    expect(page.get_by_text("Write what the picture shows.")).to_be_visible()


def test_two_people_at_a_time_on_a_phone(visit):
    pages = [visit(viewport={"width": 390, "height": 844}, is_mobile=True) for _ in range(2)]
    for page, colour in zip(pages, ("red", "blue")):
        page.locator("#prompt textarea").fill(f"a large {colour} circle on a white background")
        settings(page, steps=25, seed=1)
        page.locator("#text-draw").click()
    for page in pages:
        finished(page, "text")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        expect(page.locator("#session img")).to_have_count(1)
    red, blue = (picture(page, "text") for page in pages)
    assert is_red(red).mean() > 0.05 and not is_red(blue).any()
