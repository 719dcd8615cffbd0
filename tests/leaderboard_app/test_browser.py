"""The app in headless Chromium on a leaderboard built from results: what a reader does, by mouse, keyboard and phone.

Needs gradio (`hubinit[app]`), playwright and a Chromium; axe-core comes from `HUBINIT_AXE` (its axe.min.js) or from npm.
"""

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the app needs gradio: pip install 'hubinit[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

from hubinit.leaderboard.app.data import Data  # noqa: E402
from hubinit.leaderboard.app.query import Query  # noqa: E402
from hubinit.leaderboard.app.server import launch  # noqa: E402
from hubinit.leaderboard.build import build  # noqa: E402
from tests.leaderboard_app.results import write_results  # noqa: E402

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    root = write_results(folder / "results")
    write_results(root, methods={"lora": 0.4, HOSTILE: 0.5}, model="org/other", rates=(1e-3,))
    return Data(build([("results", root)], [], folder / "board"), folder / "board")


@pytest.fixture(scope="module")
def address(board):
    app, url = launch(board)
    yield url
    app.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page of a query; nothing but this machine is asked, and no script fails."""
    contexts, wrong = [], []

    def opened(query="", **settings):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda one: wrong.append(one.url) if not one.url.startswith((address, "data:", "blob:")) else None,
        )
        page.goto(address + query)
        page.wait_for_selector("#content")
        return page

    yield opened
    for one in contexts:
        one.close()
    assert not wrong


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    path = os.environ.get("HUBINIT_AXE")
    if path is None:
        folder = tmp_path_factory.mktemp("axe")
        npm = shutil.which("npm")
        fetched = npm and subprocess.run(
            [npm, "install", "--prefix", folder, "axe-core@4"], capture_output=True, timeout=120
        )
        if not fetched or fetched.returncode:
            pytest.skip("axe-core is neither in HUBINIT_AXE nor to be had from npm")
        path = folder / "node_modules" / "axe-core" / "axe.min.js"
    return Path(path).read_text("utf-8")


def line(board, method, task="arc-easy"):
    found = (one for one in board.chosen(Query(model="org/model")) if (one["method"], one["task"]) == (method, task))
    return next(found)["id"]


def rows(page):
    return page.locator("table.ranking tbody th a").all_text_contents()


def says(page, text):
    page.wait_for_function("text => document.querySelector('.hubinit').innerText.includes(text)", arg=text)


def test_filter_sort_open_compare_and_come_back(visit):
    page = visit()
    says(page, "16 lines in 4 tables")
    page.select_option("select[name=model]", "org/model")
    says(page, "12 lines in 2 tables")
    page.select_option("select[name=task]", "piqa")
    says(page, "6 lines in 1 table")
    page.get_by_text("More filters").click()
    page.select_option("select[name=data_aware]", "yes")
    says(page, "3 lines in 1 table")
    assert page.locator("#more").get_attribute("open") is not None, "it stays open"
    page.get_by_role("link", name="LR", exact=True).click()
    page.wait_for_selector("th[aria-sort=descending]")
    page.get_by_role("link", name="Init + train").click()
    page.wait_for_url(re.compile("sort=seconds"))
    assert rows(page) == ["lora-ga", "filet", "eva"]
    page.get_by_role("link", name="Init + train").click()
    page.wait_for_selector("th[aria-sort=ascending]")
    assert rows(page) == ["eva", "filet", "lora-ga"]
    page.get_by_role("link", name="filet").click()
    says(page, "Reproduce")
    assert "hubinit train org/model --method filet" in page.inner_text("#content") and page.title().startswith(
        "filet on piqa"
    )
    assert "PeftModel.from_pretrained" in page.inner_text("#content")
    page.get_by_role("link", name="Compare with LoRA").click()
    says(page, "Questions on which they differ")
    assert "question, 3 seeds, 80 questions" in page.inner_text("#content")
    page.go_back()
    says(page, "Reproduce")
    page.go_back()
    says(page, "3 lines in 1 table")


def test_a_link_holds_the_state_and_columns_are_chosen(visit, address):
    page = visit("?model=org/model&task=piqa&family=weights")
    says(page, "1 line in 1 table")
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("checkbox", name="Optimiser").click()
    page.wait_for_selector("th:has-text('Optimiser')")
    page.fill("input[name=search]", "nothing like it")
    says(page, "No line passes the filters")
    assert page.evaluate("document.activeElement.name") == "search", "typing goes on"
    page.fill("input[name=search]", "")
    says(page, "1 line in 1 table")
    again = visit(page.url.removeprefix(address))
    assert rows(again) == ["pissa"]
    assert again.locator("th:has-text('Optimiser')").count() == 1
    assert again.input_value("select[name=family]") == "weights"


def test_two_ticked_lines_are_compared(visit):
    page = visit("?model=org/model&task=piqa")
    page.get_by_label("Compare lora on piqa").click()
    says(page, "one more")
    page.get_by_label("Compare filet on piqa").click()
    page.get_by_role("link", name="Compare filet and lora").click()
    says(page, "Difference on each task")


@pytest.mark.parametrize("view", ["tradeoffs", "rates", "curves"])
def test_plots_are_drawn_and_a_point_opens_its_line(visit, view):
    page = visit(f"?view={view}&model=org/model&task=piqa")
    box = page.locator(".drawing svg").bounding_box()
    assert 300 < box["width"] <= 640 and box["height"] > 200
    if view == "tradeoffs":
        page.select_option("select[name=cost]", "peak_memory_bytes")
        says(page, "peak memory, GiB")
        page.locator(".drawing a").first.dispatch_event("click")
        says(page, "Reproduce")


def test_recommendation_and_export(visit, tmp_path):
    page = visit("?view=recommend")
    page.select_option("select[name=for_model]", "org/model")
    page.select_option("select[name=for_task]", "piqa")
    says(page, "Take filet at learning rate 0.0002")
    page.fill("input[name=seconds]", "12.5")
    page.keyboard.press("Tab")
    says(page, "Over the budget")
    page.get_by_role("link", name="Ranking", exact=True).click()
    says(page, "16 lines")
    page.select_option("select[name=task]", "piqa")
    says(page, "8 lines")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    download.value.save_as(tmp_path / "leaderboard.csv")
    found = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text("utf-8").splitlines()))
    assert [row["task"] for row in found] == ["piqa"] * 8 and HOSTILE in {row["method"] for row in found}


def test_html_of_strangers_is_shown_as_text(visit, board):
    page = visit("?model=org/other&task=piqa")
    assert HOSTILE in rows(page)
    for view in ("tradeoffs", "rates", "curves"):
        page = visit(f"?view={view}&model=org/other&task=piqa")
        assert HOSTILE in page.locator(".drawing text").all_text_contents()
        assert page.locator("#content img").count() == 0 and "owned" not in page.title()


def test_keyboard_alone_reaches_the_table(visit):
    page = visit("?model=org/model&task=piqa")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "sort-value":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("th[aria-sort=descending]")
    assert page.evaluate("document.activeElement.id") == "sort-value", "focus stays where it was"
    assert page.inner_text("[role=status]") == "6 lines in 1 table"


def test_phone_and_a_server_that_went_away(visit):
    page = visit("?model=org/model&task=piqa", viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.route("**/component_server/**", lambda route: route.abort())
    page.select_option("select[name=task]", "arc-easy")
    says(page, "The server did not answer")
    page.unroute("**/component_server/**")
    page.get_by_role("link", name="Try again").click()
    says(page, "6 lines in 1 table")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(visit, board, axe, scheme):
    a, b = line(board, "filet"), line(board, "lora")
    size = PHONE if scheme == "dark" else {"width": 1280, "height": 900}
    page = visit("", color_scheme=scheme, viewport=size)
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    page.evaluate(axe)
    for query, told in [
        ("?model=org/model", "12 lines"),
        ("?task=nothing", "No line passes"),
        ("?view=tradeoffs", "Score against cost"),
        ("?view=rates", "Sensitivity"),
        ("?view=curves", "Training loss"),
        (f"?view=compare&a={a}&b={b}", "Questions on which"),
        (f"?view=line&line={a}", "Reproduce"),
        ("?view=recommend&for_task=piqa", "How sure"),
        ("?view=line&line=gone", "That cannot be shown"),
    ]:
        page.evaluate(
            "query => {history.pushState(null, '', query); dispatchEvent(new PopStateEvent('popstate'))}", query
        )
        says(page, told)
        page.wait_for_selector(".hubinit:not([aria-busy])")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.wait_for_timeout(200)  # colours fade in
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 20
        assert [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == [], query
