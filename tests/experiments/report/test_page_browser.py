"""The report's page in a real browser: its filters against counts made here, its keys, its
widths."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.colours import BLACK
from experiments.figures import style
from experiments.report import opening
from experiments.report.opening import find_programs, load, open_browser, resize
from experiments.report.page import Section, write_page
from tests.experiments.report.cards import CARDS, METHODS, A, B, C, Card
from tests.experiments.report.pages import HOSTILE
from tests.written_runs import Made, write_pictures

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of five runs, a table that is wider than a phone, and a picture that is not there."""
    root = tmp_path_factory.mktemp("report")
    runs = []
    for name, method in METHODS.items():
        for steps in ("10", "20"):
            of = [card for card in CARDS if card.steps == steps and name in card.scores]
            if of:
                pictures = [Made(card.prompt, card.kind, scores=card.scores[name]) for card in of]
                folder = root / f"{name.split()[0]}-{steps}"
                runs.append(
                    write_pictures(folder, method, pictures, num_inference_steps=int(steps))
                )
    (runs[0].folder / runs[0].images[1].file).unlink()
    wide = Section("Scores", [f"a long head {i}" for i in range(20)], [["0.5 [0.4, 0.6]"] * 20] * 3)
    return write_page(root / "page", "Report", [wide], [], runs)


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    try:
        find_programs()
    except UserError as error:
        pytest.skip(str(error))
    with open_browser() as started:
        yield started


@pytest.fixture
def opened(driver: Chrome, page: Path) -> Chrome:
    """The page as first opened."""
    driver.get("about:blank")
    resize(driver, 1280)
    load(driver, page)
    return driver


def find(driver: Chrome, selector: str) -> WebElement:
    found: WebElement = driver.find_element("css selector", selector)
    return found


def count(driver: Chrome) -> str:
    return find(driver, "#count").text


def choose(driver: Chrome, name: str, value: str) -> None:
    """As by hand: selects by the option's value, fields by typing."""
    from selenium.webdriver.support.select import Select

    element = find(driver, f'[name="{name}"]')
    if element.tag_name == "select":
        Select(element).select_by_value(value)
    else:
        element.clear()
        element.send_keys(value)


def press(driver: Chrome, *keys: str) -> None:
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def until(driver: Chrome, happens: Callable[[Chrome], bool]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 10, poll_frequency=0.05).until(happens)


def list_prompts(driver: Chrome) -> list[str]:
    """Of the cards that are there, in order."""
    shown: list[str] = driver.execute_script(
        "return [...document.querySelectorAll('.card .open')].map((button) => button.textContent)"
    )
    return shown


def test_opens_from_the_disk_without_an_error_and_runs_no_prompt(
    opened: Chrome, page: Path
) -> None:
    assert opened.current_url.startswith("file://")
    assert count(opened) == f"{len(CARDS)} of {len(CARDS)}"
    assert list_prompts(opened)[0] == HOSTILE
    assert opened.title == "Report"
    assert opened.execute_script("return document.querySelectorAll('[onerror], b cat').length") == 0
    widths = (
        "return [...document.querySelectorAll('.card:first-child .frame img')]"
        ".map((i) => i.naturalWidth)"
    )
    until(opened, lambda driver: driver.execute_script(widths) == [16, 16, 16])
    said: Any = opened
    assert said.get_log("browser") == []


def test_what_is_missing_is_a_labelled_gap(opened: Chrome) -> None:
    gaps = [gap.text for gap in opened.find_elements("css selector", ".gap")]
    assert gaps == ["p1_0.png is missing"]


def read_outcome(test: Callable[[float | None, float | None], bool]) -> Callable[[Card], bool]:
    return lambda card: test(card.exact(A), card.exact(B))


def at_least(metric: str, least: float) -> Callable[[Card], bool]:
    return lambda card: (d := card.difference(metric)) is not None and abs(d) >= least - 1e-9


FILTERS: list[tuple[dict[str, str], Callable[[Card], bool]]] = [
    ({"kind": "two"}, lambda card: card.kind == "two"),
    ({"steps": "20"}, lambda card: card.steps == "20"),
    ({"q": "1 BLUE"}, lambda card: "Blue" in card.prompt and "1" in card.prompt),
    ({"q": "<b>"}, lambda card: card.prompt == HOSTILE),
    ({"q": "zebra"}, lambda card: False),
    ({"outcome": "right"}, read_outcome(lambda a, b: a == 1)),
    ({"outcome": "wrong"}, read_outcome(lambda a, b: a == 0)),
    ({"outcome": "won"}, read_outcome(lambda a, b: a == 1 and b == 0)),
    ({"outcome": "lost"}, read_outcome(lambda a, b: a == 0 and b == 1)),
    ({"outcome": "differ"}, read_outcome(lambda a, b: a is not None and b is not None and a != b)),
    ({"a": C, "outcome": "wrong"}, lambda card: card.exact(C) == 0),
    ({"b": C, "outcome": "won"}, lambda card: card.exact(A) == 1 and card.exact(C) == 0),
    ({"metric": "clip", "least": "0.4"}, at_least("clip", 0.4)),
    ({"metric": "exact", "least": "1"}, at_least("exact", 1)),
    (
        {"kind": "one", "steps": "10", "outcome": "right"},
        lambda card: card.kind == "one" and card.steps == "10" and card.exact(A) == 1,
    ),
]


@pytest.fixture
def unfiltered(driver: Chrome, page: Path) -> Chrome:
    """The page, opened before or now, with its filters reset."""
    if not driver.current_url.startswith(page.as_uri()):
        load(driver, page)
    find(driver, ".bar [type=reset]").click()
    until(driver, lambda driver: count(driver) == f"{len(CARDS)} of {len(CARDS)}")
    return driver


@pytest.mark.parametrize(
    ("settings", "passes"), FILTERS, ids=[str(settings) for settings, _ in FILTERS]
)
def test_filters_leave_what_they_should(
    unfiltered: Chrome, settings: dict[str, str], passes: Callable[[Card], bool]
) -> None:
    assert "=" not in unfiltered.current_url
    for name, value in settings.items():
        choose(unfiltered, name, value)
    expected = [card.prompt for card in CARDS if passes(card)]
    assert len(expected) < len(CARDS)
    assert count(unfiltered) == f"{len(expected)} of {len(CARDS)}"
    shown = list_prompts(unfiltered)
    assert shown == expected[: len(shown)]
    assert find(unfiltered, "#none").is_displayed() == (not expected)


def test_the_address_restores_a_view(unfiltered: Chrome) -> None:
    settings = {
        "kind": "one",
        "steps": "10",
        "q": "dog",
        "b": C,
        "outcome": "right",
        "sort": "ascending",
    }
    for name, value in settings.items():
        choose(unfiltered, name, value)
    view, shown, told = unfiltered.current_url, list_prompts(unfiltered), count(unfiltered)
    assert 0 < len(shown) < len(CARDS)
    unfiltered.get("about:blank")
    unfiltered.get(view)
    until(unfiltered, lambda driver: list_prompts(driver)[: len(shown)] == shown)
    assert count(unfiltered) == told
    chosen = {
        name: find(unfiltered, f'[name="{name}"]').get_attribute("value") for name in settings
    }
    assert chosen == settings
    find(unfiltered, 'nav a[href="#tables"]').click()
    assert count(unfiltered) == told, "a link within the page leaves the view as it is"


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_sorts_by_difference_and_puts_the_unknown_last(unfiltered: Chrome, order: str) -> None:
    for name, value in {"kind": "two", "q": "1", "metric": "clip", "sort": order}.items():
        choose(unfiltered, name, value)
    listed = [card for card in CARDS if card.kind == "two" and "1" in card.prompt]
    known = [(d, card) for card in listed if (d := card.difference("clip")) is not None]
    known.sort(key=lambda pair: -pair[0] if order == "descending" else pair[0])
    unknown = [card for card in listed if card.difference("clip") is None]
    assert unknown
    expected = [card.prompt for card in (*(card for _, card in known), *unknown)]
    until(unfiltered, lambda driver: list_prompts(driver) == expected)
    signed = f"{known[0][0]:+.3f}"
    assert find(unfiltered, ".card .facts").text.endswith(f"clip A − B {signed.replace('-', '−')}")


def test_methods_can_be_hidden(opened: Chrome) -> None:
    assert len(opened.find_elements("css selector", ".card:first-child li")) == 3
    find(opened, f'[value="{C}"][name="hide"]').click()
    names = [
        e.text.split("\n")[0]
        for e in opened.find_elements("css selector", ".card:first-child .method")
    ]
    assert names == ["DM", "AsynDM"]
    opened.refresh()
    assert len(opened.find_elements("css selector", ".card:first-child li")) == 2


def test_right_and_wrong_have_a_sign_and_a_text(opened: Chrome) -> None:
    marks = [mark.text for mark in opened.find_elements("css selector", ".card:first-child .mark")]
    assert marks == ["✓" if CARDS[0].exact(m) else "✕" for m in METHODS]
    texts = [
        e.get_attribute("alt")
        for e in opened.find_elements("css selector", ".card:first-child .frame img")
    ]
    assert texts == [
        f"Picture by {m}, {'right' if CARDS[0].exact(m) else 'wrong'}" for m in METHODS
    ]


def test_cards_are_made_as_they_come_into_view(opened: Chrome) -> None:
    def at_end(driver: Chrome) -> bool:
        driver.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
        return list_prompts(driver) == [card.prompt for card in CARDS]

    assert len(list_prompts(opened)) < len(CARDS)
    until(opened, at_end)


def test_keys(opened: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    def at() -> int:
        place: int = opened.execute_script(
            "return [...document.querySelectorAll('.card')]"
            ".indexOf(document.activeElement.closest('.card'))"
        )
        return place

    find(opened, "body").send_keys("j")
    assert at() == 0
    press(opened, "j", Keys.ARROW_RIGHT, "k")
    assert at() == 1
    press(opened, Keys.ARROW_LEFT, "k")
    assert at() == 0, "there is none before the first"
    press(opened, Keys.ARROW_DOWN)
    assert at() == 2, "two in a row at this width"
    press(opened, Keys.ENTER)
    dialog, title = find(opened, "#details"), find(opened, "#details-title")
    assert dialog.is_displayed() and title.text == CARDS[2].prompt
    assert "t 500-700" in dialog.text and "3 of 48" in dialog.text
    press(opened, Keys.ARROW_RIGHT)
    assert title.text == CARDS[3].prompt
    press(opened, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert title.text == CARDS[1].prompt
    press(opened, Keys.ESCAPE)
    until(opened, lambda _: not dialog.is_displayed() and at() == 1)
    press(opened, "/")
    assert opened.switch_to.active_element.get_attribute("id") == "search"
    press(opened, "j?/")
    assert find(opened, "#search").get_attribute("value") == "j?/", (
        "letters typed there are no keys"
    )
    find(opened, "#gallery-title").click()
    press(opened, "?")
    assert find(opened, "#keys").is_displayed()
    press(opened, Keys.ESCAPE)
    until(opened, lambda driver: not find(driver, "#keys").is_displayed())


def test_tab_reaches_the_cards_after_the_filters(opened: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("document.getElementById('help').focus()")
    press(opened, Keys.TAB)
    focused = opened.switch_to.active_element
    assert focused.text == HOSTILE
    ring = "return getComputedStyle(document.activeElement.closest('.card')).outlineStyle"
    assert opened.execute_script(ring) == "solid"


def test_opening_is_measured(
    driver: Chrome,
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(opening, "LOADS", 1)
    shot = tmp_path / "page.png"
    assert (
        opening.main([str(page.parent), "--screenshot", str(shot), "--width", "800", "--dark"]) == 0
    )
    said = capsys.readouterr().out
    pictures = sum(len(card.scores) for card in CARDS) - 1
    assert f"{pictures} pictures listed" in said and "first cards painted" in said
    with Image.open(shot) as image:
        assert image.width == 800
        darkness = image.convert("L").getpixel((5, 5))
    assert isinstance(darkness, int) and darkness < 64


def test_fits_a_phone(opened: Chrome) -> None:
    resize(opened, 390, 844)
    opened.refresh()
    fits = "return document.documentElement.scrollWidth <= innerWidth && innerWidth === 390"
    assert opened.execute_script(fits)
    box = "const box = document.querySelector('#tables .scroll');"
    table = f"{box} return box.scrollWidth > box.clientWidth"
    assert opened.execute_script(table), "the table scrolls in its own box"
    opened.execute_script("document.querySelector('#panel').open = true")
    assert opened.execute_script(fits)
    opened.execute_script("document.querySelector('.open').click()")
    assert find(opened, "#details").is_displayed() and opened.execute_script(fits)
    assert find(opened, "#details").rect["width"] <= 390


@pytest.mark.fault(
    what="figures on a page that is read in dark mode",
    kind="what stays white in dark mode",
    now="the SVGs bring colours of their own for it, markers filled or not as in the light",
)
def test_figures_adapt_to_dark_pages(driver: Chrome, tmp_path: Path) -> None:
    with style.apply_style():
        figure = Figure(figsize=(2, 1))
        axes = figure.add_axes((0, 0, 1, 1))
        for x, face in ((0.25, BLACK), (0.75, "#ffffff")):
            axes.plot(x, 0.5, "o", color=BLACK, markerfacecolor=face, markersize=20)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    _, svg = style.save(figure, tmp_path / "f")

    def seen(scheme: str) -> list[Any]:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.get(svg.as_uri())
        with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as image:
            return [image.convert("L").getpixel(place) for place in ((48, 48), (144, 48), (96, 8))]

    resize(driver, 1280)
    (filled, empty, paper) = seen("dark")
    assert filled > 200 and max(empty, paper) < 40
    assert seen("light") == [0, 255, 255]
