"""How long a report's page takes to open in Chromium: the median of fresh loads, each in a new
browser.

python -m experiments.report.opening FOLDER
python -m experiments.report.opening FOLDER --screenshot page.png --width 390 --dark
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from evaluation.commands import Parser, command_line
from experiments.report.page import INDEX

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

LOADS, HEIGHT = 5, 900
PHONE = 600
"""Widths below are shown as on a phone."""
TIMES = """
const page = performance.getEntriesByType("navigation")[0];
const cards = performance.getEntriesByName("cards")[0];
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return page.loadEventEnd > 0 && paint && (cards || !document.getElementById("data"))
  ? [paint.startTime, (cards || paint).startTime, page.loadEventEnd,
     document.querySelectorAll("*").length]
  : null;
"""
LISTED = """
const data = document.getElementById("data");
return data ? JSON.parse(data.textContent).pictures.filter(Array.isArray).length : 0;
"""


@dataclass(frozen=True)
class Opening:
    """One load, in milliseconds since the navigation began, and the elements the page then had."""

    first_paint: float
    cards: float
    load: float
    elements: int


def find_programs() -> tuple[str, str]:
    """Chromium and its driver, as found on the path.

    Raises:
        UserError: either is missing, or selenium.
    """
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        name = "chromium" if chromium is None else "chromedriver"
        raise UserError(f"{name} is not installed; on Debian, apt install chromium chromium-driver")
    try:
        import selenium  # noqa: F401
    except ImportError as error:
        raise UserError("selenium is not installed; pip install selenium") from error
    return chromium, driver


@contextmanager
def open_browser(width: int = 1280, height: int = HEIGHT, dark: bool = False) -> Iterator[Chrome]:
    """A new headless Chromium with an empty profile, which keeps what pages say on their console.

    Raises:
        UserError: as `find_programs`.
    """
    chromium, driver_path = find_programs()
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    flags = [
        "headless",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
    ]
    flags += ["disable-component-update", "disable-sync", "hide-scrollbars"]
    flags += ["no-sandbox"] if os.geteuid() == 0 else []
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*flags, f"user-data-dir={profile}", f"window-size={width},{height}"):
            options.add_argument(f"--{flag}")
        driver = Chrome(options=options, service=Service(executable_path=driver_path))
        try:
            resize(driver, width, height)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield driver
        finally:
            driver.quit()


def resize(driver: Chrome, width: int, height: int = HEIGHT) -> None:
    """Shows pages at this size, in CSS pixels; below `PHONE` as a phone does."""
    phone = width < PHONE
    size = {
        "width": width,
        "height": height,
        "deviceScaleFactor": 2 if phone else 1,
        "mobile": phone,
    }
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def load(driver: Chrome, page: Path) -> Opening:
    """Opens a page and waits until its first cards are painted and all it asks for at once is
    there."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver.get(page.resolve().as_uri())
    times: list[Any] = WebDriverWait(driver, 60, poll_frequency=0.05).until(
        lambda d: d.execute_script(TIMES)
    )
    return Opening(*times)


def measure(chosen: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        UserError: no page there, or no browser.
    """
    page: Path = chosen.folder / INDEX
    if not page.is_file():
        raise UserError(
            f"{page}: no such page; write it with python -m experiments.report runs --html FOLDER"
        )
    openings = []
    for _ in range(LOADS):
        with open_browser(chosen.width, dark=chosen.dark) as driver:
            openings.append(load(driver, page))
            pictures = driver.execute_script(LISTED)
            if chosen.screenshot and len(openings) == LOADS:
                driver.save_screenshot(str(chosen.screenshot))
    size = sum(path.stat().st_size for path in chosen.folder.rglob("*") if path.is_file())
    cells = {name: median(getattr(o, name) for o in openings) for name in vars(openings[0])}
    print(
        f"first paint {cells['first_paint']:.0f} ms, first cards painted {cells['cards']:.0f} ms, "
        f"load event {cells['load']:.0f} ms (medians of {LOADS} fresh loads)"
    )
    print(
        f"{pictures:,} pictures listed, {cells['elements']:,.0f} elements, "
        f"{INDEX} {page.stat().st_size / 1e6:.2f} MB, all files {size / 1e6:.1f} MB"
    )


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.report.opening", __doc__)
    parser.add_argument("folder", type=Path, help="of the page")
    parser.add_argument(
        "--screenshot", type=Path, metavar="FILE", help="write what is seen there, a PNG"
    )
    parser.add_argument("--width", type=int, default=1280, metavar="PIXELS", help="of the window")
    parser.add_argument("--dark", action="store_true", help="as for one who prefers dark pages")
    measure(parser.read(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
