"""The page as a visitor sees it, in a headless Chromium; with LEAP_SHOTS=FOLDER it leaves pictures there.

That in docs/:

    LEAP_SHOTS=docs python -m pytest -m integrations tests/leap/page/test_page_browser.py -k first_view
"""

import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if not importlib.util.find_spec("gradio"):  # found and not imported: that takes long
    pytest.skip("pip install -r requirements-app.txt", allow_module_level=True)
pytest.importorskip("selenium", reason="pip install -r requirements-integrations.txt")

from browser import Browser, browser, free_port, installed, wait_for
from PIL import Image

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.real_weights,
    pytest.mark.skipif(not installed(), reason="apt-get install chromium chromium-driver"),
]

DESKTOP, PHONE = 1200, 390  # pixels
SMALLEST = 20_000  # bytes that a picture of the page has at the least
TAB, LEFT = "\ue004", "\ue012"
THETA = "#theta input[type=number]"


@pytest.fixture(scope="module")
def address(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py`, as its user starts it."""
    port = free_port()
    log = tmp_path_factory.mktemp("app") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, str(repo_root / "app.py"), "--port", str(port)],
            cwd="/",
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def page(window: Browser, address: str) -> Browser:
    """The page, fresh, with its first results."""
    window.resize(DESKTOP, 900)
    window.driver.get(address)
    window.wait(
        lambda: "texts skip layers" in window.text("#summary") and "The query ran" in window.text("#found")
    )
    return window


@pytest.fixture
def look(page: Browser) -> Callable[..., None]:
    """A function of a name and a width in pixels that takes a picture of the whole page."""

    def take(name: str, width: int = DESKTOP) -> None:
        page.resize(width)
        page.settle()
        picture = page.driver.get_screenshot_as_png()
        assert len(picture) > SMALLEST
        folder = os.environ.get("LEAP_SHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            # 256 colours: half the size, and nobody sees the difference on such a page.
            flat = (
                Image.open(io.BytesIO(picture))
                .convert("RGB")
                .quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            )
            flat.save(Path(folder) / f"{name}.png", optimize=True)

    return take


def layers(page: Browser) -> list[int]:
    """The column of layers run, as shown."""
    return [int(cell) for cell in page.cells("#table", 5)]


def test_first_view(page: Browser, look: Callable[..., None]) -> None:
    assert "The model's own rule" in page.text("#rule label.selected")
    assert len(layers(page)) == 6
    assert set(layers(page)) <= {2, 3, 4, 5, 6}
    assert [skips == "yes" for skips in page.cells("#table", 4)] == [layer < 6 for layer in layers(page)]
    assert page.find("#curves img").size["height"] > 150
    assert page.cells("#hits", 2)[0].startswith(("If you cannot log in", "To change your password"))
    assert page.outside() == []
    look("app")


def test_theta_moved(page: Browser, look: Callable[..., None]) -> None:
    own = layers(page)
    assert own != [6] * 6
    page.type(THETA, "1", TAB)
    page.wait(lambda: "The settings below" in page.text("#rule label.selected"))
    page.wait(lambda: layers(page) == [6] * 6)
    page.wait(lambda: "ran 6 of 6 layers" in page.text("#found"))
    # 140 steps of 0.005: to 0.3, which every text here reaches.
    page.find("#theta input[type=range]").send_keys(LEFT * 140)
    page.wait(lambda: layers(page) == [3] * 6)
    page.wait(lambda: "ran 3 of 6 layers" in page.text("#found"))
    look("theta")
    page.type(THETA, "1", TAB)
    page.wait(lambda: layers(page) == [6] * 6)
    page.find("#rule label").click()
    page.wait(lambda: layers(page) == own)


def test_no_text(page: Browser, look: Callable[..., None]) -> None:
    page.type("#texts textarea", "  \n \n")
    page.find("#encode").click()
    assert page.wait(lambda: page.text("#message")) == "There is no text yet: type or paste some, one a line."
    assert page.text("#summary") == ""
    page.type("#query textarea", " ")
    page.find("#find").click()
    assert page.wait(lambda: page.text("#trouble")) == "There is no query yet: type one."
    look("no_text")
    page.type("#texts textarea", "Hello!")  # and it goes on
    page.find("#encode").click()
    page.wait(lambda: "of 1 text skip layers" in page.text("#summary"))
    assert page.text("#message") == ""


def test_too_much_text(page: Browser) -> None:
    page.type("#texts textarea", "many words " * 2000)
    page.find("#encode").click()
    assert "this page takes 20,000" in page.wait(lambda: page.text("#message"))
    page.type("#texts textarea", "a text\n" * 51)
    page.find("#encode").click()
    page.wait(lambda: page.text("#message").startswith("These are 51 texts"))


def test_long_and_odd_texts(page: Browser, look: Callable[..., None]) -> None:
    long = "A long text about $5 and $6, <b>bold</b> claims & <script>alert(1)</script>. " * 40
    page.type("#texts textarea", f"{long}\nshort\n{'supercalifragilistic' * 12}\n日本語のテキスト 🙂")
    page.find("#encode").click()
    page.wait(lambda: "of 4 texts skip layers" in page.text("#summary"))
    assert "1 text was longer than the model reads and cut to 256 tokens" in page.text("#summary")
    look("long")


def test_theta_out_of_range(page: Browser, look: Callable[..., None]) -> None:
    page.type(THETA, "7")  # the field is not left yet: it would go back to 1, and the message with it
    said = "theta must lie between 0 and 1; 7 does not."
    page.wait(lambda: page.text("#message") == page.text("#trouble") == said)
    look("out_of_range")
    page.find(THETA).send_keys(TAB)
    page.wait(lambda: "6.00 of 6 layers run" in page.text("#summary"))  # of theta 1


def test_on_a_phone(page: Browser, look: Callable[..., None]) -> None:
    page.resize(PHONE, 844)
    page.settle()
    wide = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= PHONE, f"it has to be scrolled sideways: {wide} pixels wide"
    look("phone", PHONE)
