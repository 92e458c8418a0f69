"""Debian's Chromium without a screen, for the tests of the page and its picture in docs/."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()


def installed() -> bool:
    """Whether there is a Chromium with its driver."""
    return all(map(shutil.which, ("chromium", "chromedriver")))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port: int, server: subprocess.Popen[str], seconds: float = 240) -> None:
    """Wait until the server listens; an AssertionError if it ends or takes too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.poll() is None, "the server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"nothing listens on port {port} after {seconds} seconds")


class Browser:
    """A browser with the few steps that the tests take."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def find(self, selector: str) -> Any:
        """The first element that matches."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What it shows; "" where there is none."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found[0].text if found and found[0].is_displayed() else ""

    def wait(self, condition: Callable[[], Any], seconds: float = 120) -> Any:
        """What `condition` returns once it is true."""
        return WebDriverWait(self.driver, seconds, 0.2).until(lambda _: condition())

    def type(self, selector: str, text: str, *keys: str) -> None:
        """Put a text in the place of what a field holds, then press keys."""
        # Ten thousand keystrokes take minutes: the page sees the same event as after a paste.
        self.driver.execute_script(
            "const e = arguments[0];"
            "const proto = e.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;"
            "Object.getOwnPropertyDescriptor(proto.prototype, 'value').set.call(e, arguments[1]);"
            "e.dispatchEvent(new Event('input', {bubbles: true}));",
            self.find(selector),
            text,
        )
        if keys:
            self.find(selector).send_keys(*keys)

    def resize(self, width: int, height: int | None = None) -> None:
        """Make the page `width` wide, a phone's too, and `height` or as high as its content."""
        metrics = {"width": width, "height": height or 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        if height is None:
            metrics["height"] = self.driver.execute_script("return document.documentElement.scrollHeight")
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def settle(self) -> None:
        """Let what moves come to rest."""
        shown = "return document.body.innerText"
        self.wait(lambda: not re.search(r"(processing|queue:.*) \|", self.driver.execute_script(shown)))
        time.sleep(0.5)  # Gradio's own fading

    def cells(self, table: str, column: int) -> list[str]:
        """A column, from 1, of a table of Gradio, as shown; empty while it is drawn anew."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(cell => cell.offsetParent)"
            ".map(cell => cell.innerText.trim())"
        )
        selector = f'{table} [data-testid^="cell-"][data-testid$="-{column - 1}"]'
        return self.driver.execute_script(script, selector)

    def outside(self) -> list[str]:
        """The addresses asked for since the last call that are not on this machine."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = [event["request"]["url"] for event in sent]
        return [
            url
            for url in urls
            if url.startswith(("http:", "https:", "ws:", "wss:")) and "//127.0.0.1:" not in url
        ]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in this folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
