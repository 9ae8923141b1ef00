"""The page of `view` in a real browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from selenium.webdriver import ActionChains, ChromeOptions, Remote
from selenium.webdriver.chrome.remote_connection import ChromeRemoteConnection
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.common.proxy import Proxy, ProxyType
from selenium.webdriver.remote.client_config import ClientConfig

from tests.servers import LIMIT, Processes, absent, free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

_QUIET = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage"),
    *("no-first-run", "disable-background-networking", "disable-component-update"),
    *("disable-sync", "no-proxy-server"),
)


def start(processes: Processes, folder: Path) -> Remote:
    """Start a browser with its own empty profile; it ends with `processes`."""
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if program is None or driver is None:
        absent("chromium and chromedriver")
    port = free_port()
    processes.start(
        "chromedriver",
        [driver, f"--port={port}"],
        env={"HOME": str(folder), "NO_PROXY": "127.0.0.1"},
        ready="started successfully",
    )
    options = ChromeOptions()
    options.binary_location = program
    for flag in (*_QUIET, f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    direct = Proxy({"proxyType": ProxyType.DIRECT})
    url = f"http://127.0.0.1:{port}"
    config = ClientConfig(url, proxy=direct, timeout=int(LIMIT))
    return Remote(ChromeRemoteConnection(url, client_config=config), options=options)


class Page:
    """The page of one server, as somebody sees it."""

    def __init__(self, driver: Remote, port: int) -> None:
        self.driver = driver
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.look()
        self.complaints()  # they belong to the test before

    def look(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._order("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._order("Emulation.setEmulatedMedia", {"features": features})

    def _order(self, command: str, parameters: dict[str, Any]) -> Any:
        asked = {"cmd": command, "params": parameters}
        return self.driver.execute("executeCdpCommand", asked)["value"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.execute("getLog", {"type": kind})["value"]
        return found

    def open(self, place: str = "/") -> None:
        """Load the page anew."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/#{place}")

    def send(self, request: Message, path: str = "/v1/traces") -> None:
        self.post(request.SerializeToString(), path)

    def post(self, body: bytes, path: str = "/v1/traces") -> int:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)) as connection:
            connection.request("POST", path, body, {"Content-Type": "application/x-protobuf"})
            return connection.getresponse().status

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """What is to be read in each visible element."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(one => one.checkVisibility()).map(one => one.innerText)"
        )
        found: list[str] = self.run(script, selector)
        return found

    def sees(self, words: str, selector: str = "body") -> None:
        """Wait until these words can be read."""
        wait_until(lambda: any(words in text for text in self.texts(selector)), what=words)

    def click(self, selector: str, words: str = "") -> None:
        """Click the first visible element that says this, as soon as it is there."""
        script = """
            const found = [...document.querySelectorAll(arguments[0])].find(
                one => one.checkVisibility() && one.innerText.includes(arguments[1]));
            found?.click();
            return Boolean(found);"""
        wait_until(lambda: self.run(script, selector, words), what=f"{selector} with {words}")

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        """Press Tab until such an element has the focus."""
        for _ in range(100):
            self.press(Keys.TAB)
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    def overflows(self) -> list[str]:
        """What sticks out on the right."""
        script = """
            const width = document.documentElement.clientWidth;
            return [...document.querySelectorAll("body *")].filter(one => one.checkVisibility()
                && one.getBoundingClientRect().right > width + 1
                && !one.closest(".track, pre")).map(one => one.outerHTML.slice(0, 200));"""
        found: list[str] = self.run(script)
        return found

    def complaints(self) -> list[str]:
        """What the console says, and what was asked of anybody else."""
        said = [entry["message"] for entry in self._log("browser")]
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith((self.url, "about:", "data:")):
                    said.append(f"it asked {url}")
        return said
