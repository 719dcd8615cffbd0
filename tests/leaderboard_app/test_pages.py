"""The pages of the app as functions of the query: what they show, that nothing from results becomes HTML, and the numbers."""

import csv
import io
import itertools
import re
import shlex
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from hubinit.leaderboard import versus
from hubinit.leaderboard.app import commands, pages
from hubinit.leaderboard.app.data import Data, protocol_of
from hubinit.leaderboard.app.query import VIEWS, Query
from hubinit.leaderboard.build import Claims, build, open_leaderboard
from hubinit.leaderboard.export import export
from hubinit.leaderboard.families import OTHER, family_of
from hubinit.leaderboard.reported import reported
from hubinit.leaderboard.rows import COUNTED, LARGEST, RunRow
from hubinit.leaderboard.table import frame
from hubinit.leaderboard.tradeoffs import pareto
from tests.leaderboard_app.results import DATA_AWARE, QUESTIONS, write_results

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>$\\frac{1}$'


class Elements(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and the text between."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def options(self, name):
        start = next(i for i, (tag, its) in enumerate(self.elements) if tag == "select" and its.get("name") == name)
        following = itertools.takewhile(lambda element: element[0] == "option", self.elements[start + 1 :])
        return [its["value"] for _, its in following]


def data_of(root, out):
    return Data(build([("results", root)], [], out), out)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    return data_of(write_results(folder / "results"), folder / "board")


def shown(data, query):
    return Elements(pages.page(data, query).html)


def methods(data, query):
    return [line["method"] for line in pages.ordered(data.chosen(Query.parse(query)), Query.parse(query))]


def named(data, method, task="arc-easy"):
    return next(
        line for lines in data.tables.values() for line in lines if (line["method"], line["task"]) == (method, task)
    )


def test_ranking_filters_sorts_and_hides_what_all_lines_share(data):
    everything = shown(data, "")
    assert "12 lines in 2 tables : org/model" in everything.text
    assert everything.options("task") == ["", "arc-easy", "piqa"]
    assert set(methods(data, "?task=piqa&data_aware=yes")) == set(DATA_AWARE)
    assert methods(data, "?task=piqa&family=weights") == ["pissa"]
    assert methods(data, "?task=piqa&search=FIL%20org") == ["filet"]
    assert methods(data, "?protocol=quickstart&rank=8&method=eva&optimiser=adamw") == ["eva", "eva"]
    by_time = methods(data, "?task=piqa&sort=seconds&down=1")
    assert by_time == ["lora-ga", "filet", "eva", "pissa", "lora", "none"], "the base has no time and comes last"
    assert "No line passes the filters" in shown(data, "?model=nobody/nothing").text
    assert "LlamaFactory" not in everything.text and "2605.01046" in shown(data, "?origin=reported&method=filet").text


def test_a_page_is_its_query_and_what_cannot_be_is_left_out(data):
    query = Query.parse("?view=tradeoffs&model=a%26b&columns=lr&columns=rank&page=3&x=1&pick=1&__theme=dark")
    assert (query.model, query.columns, query.page, query.theme) == ("a&b", ("lr", "rank"), 3, "dark")
    assert Query.parse(query.link(page=3)) == query
    assert Query.parse("?view=../../etc&page=-1&sort=__class__&model=" + "x" * 9999).page == 1
    assert pages.page(data, "?sort=__class__&columns=__doc__&view=nonsense").query.startswith("?sort=__class__")
    assert Query().link() == "?"


@pytest.mark.parametrize("text", ["?origin=x", "?" + "&".join(f"a{n}=1" for n in range(600)), "?view=curves&board=x"])
def test_an_address_that_somebody_made_up_gives_a_page(data, text):
    assert "hubinit" in pages.page(data, text).title
    assert pages.csv(data, text).startswith("origin,")


EXTREME = [
    {"metric": "bleu", "value": LARGEST, "stderr": LARGEST, "items": None},
    {"metric": "bleu", "value": -LARGEST, "validation_loss": -LARGEST, "forgetting": LARGEST},
    {"n": COUNTED - 1, "limit": COUNTED - 1, "train_samples": COUNTED - 1, "data_seed": COUNTED - 1},
    {"lr": LARGEST, "alpha": LARGEST, "peak_memory_bytes": COUNTED - 1, "seconds_train": LARGEST},
    {"curve": '{"step":[1,2],"loss":[1e308,-1e308]}', "lr": 0.0},
    {"curve": '{"step":[1,%s],"loss":[1,2]}' % ("9" * 400)},
    {"options": '{"a":[NaN,{"b":1e999}]}', "versions": '{"a":[]}', "hardware": "{}", "calibration": '{"x":{}}'},
]


def test_whatever_a_row_may_hold_breaks_no_board_and_no_page(tmp_path):
    methods = {"lora": 0.5} | {f"peft:{number}": 0.4 for number in range(len(EXTREME))}
    known = data_of(write_results(tmp_path / "r", methods=methods, rates=(1e-3,), seeds=2), tmp_path / "b").board.runs
    rows = known[known["task"] == "piqa"].astype(object).where(known.notna(), None).to_dict("records")
    extreme = dict(zip([*methods][1:], EXTREME, strict=True))
    checked = frame(RunRow.model_validate(row | extreme.get(row["method"], {})).model_dump() for row in rows)
    board = build([], [Claims("owner/board", checked)], tmp_path)
    assert export(open_leaderboard(tmp_path), "md") == export(board, "md")
    data = Data(board, tmp_path)
    assert set(methods) <= {line["method"] for line in data.lines}
    for name, lines in data.tables.items():
        one, two = lines[0], lines[-1]
        for view in VIEWS:
            query = Query(view=view, board=name, line=one["id"], a=one["id"], b=two["id"], for_task="piqa")
            assert pages.page(data, query.link()).html


def test_every_page_of_every_line_is_shown(data):
    ids = [line["id"] for line in data.lines if line["origin"] == "measured"]
    assert len({line["id"] for line in data.lines}) == len(data.lines)
    drawn = ("tradeoffs", "rates", "curves")  # the same whatever the line is
    for view, one in [(v, one) for v in VIEWS for one in (ids[:1] if v in drawn else ids)]:
        html = pages.page(data, f"?view={view}&line={one}&a={one}&b={ids[0]}&for_task=piqa&cost=peak_memory_bytes").html
        assert "That cannot be shown" not in html, view
    gone = pages.page(data, "?view=line&line=0123456789")
    assert "not in the leaderboard any more" in gone.html and 'role="alert"' in gone.html


@pytest.mark.parametrize("view", VIEWS)
def test_what_strangers_wrote_is_text_on_every_page(tmp_path, view):
    hostile = {"lora": 0.5, HOSTILE: 0.6}
    root = write_results(tmp_path / "r", methods=hostile, model=HOSTILE, rates=(1e-3,), command=HOSTILE, said=HOSTILE)
    data = data_of(root, tmp_path / "board")
    a, b = (named(data, method) for method in hostile)
    query = Query(
        view=view, line=b["id"], a=a["id"], b=b["id"], pick=(a["id"], b["id"]), for_task="arc-easy", search=HOSTILE
    )
    if view in ("tradeoffs", "rates", "curves"):
        query = Query(view=view)
    for text in (query.link(), query.link(search="", model=HOSTILE)):
        page = Elements(pages.page(data, text).html)
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "img", "style", "iframe", "object"}
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        links = [its.get("href", its.get("xlink:href", "")) for _, its in page.elements]
        assert all(link.startswith(("?", "#", "https://huggingface.co/")) for link in links if link)
        assert "onerror" in page.text, "it is shown as it is"


def test_a_figure_is_well_formed_and_its_points_lead_to_their_lines(data):
    html = pages.page(data, "?view=tradeoffs&task=piqa").html
    drawing = ET.fromstring(re.search(r"<svg.*?</svg>", html, re.DOTALL)[0])
    links = {
        value
        for one in drawing.iter()
        for name, value in one.attrib.items()
        if name.endswith("href") and value[0] == "?"
    }
    lines = [line for line in data.chosen(Query(task="piqa")) if line["seconds"] is not None]
    assert {Query.parse(link).line for link in links} == {line["id"] for line in lines}
    assert drawing.attrib["aria-hidden"] == "true" and "font: " not in html


def test_two_lines_differ_by_what_their_records_say(data):
    a, b = named(data, "filet"), named(data, "lora")
    measured = [line for lines in data.tables.values() for line in lines]
    items = data.values(versus.wanted(a, b, measured, data.runs))
    duels = versus.duels(a, b, measured, data.runs, items)
    assert [duel.a["task"] for duel in duels] == ["arc-easy", "piqa"] and all(duel.difference.paired for duel in duels)
    right = {}
    for name, chance in (("filet", 0.75), ("lora", 0.4)):
        chances = [np.random.default_rng([0, seed]).random(QUESTIONS) for seed in range(3)]
        right[name] = np.array([one < chance - 20 * 2e-4 for one in chances])
    assert duels[0].difference.mean == pytest.approx((right["filet"].mean(1) - right["lora"].mean(1)).mean())
    wins = int((right["filet"] & ~right["lora"]).sum())
    found = versus.counts(a, b, data.runs, items)
    assert (found.a, found.b, found.same) == (wins, 0, 3 * QUESTIONS - wins)
    differing = list(versus.differing(a, b, data.runs, data.places().get))
    assert len(differing) == wins and {one.outputs for one in differing} == {("choice 1", "choice 0")}
    page = shown(data, f"?view=compare&a={a['id']}&b={b['id']}")
    assert f"filet scored higher on {wins}" in page.text and "question, 3 seeds, 80 questions" in page.text
    base = named(data, "none")
    assert versus.counts(a, base, data.runs, data.values(versus.wanted(a, base, measured, data.runs))).a > 0


def test_runs_of_a_line_are_found_at_every_learning_rate(data):
    line = named(data, "filet")
    rates = data.runs.sweep(line)
    assert [(rate.lr, rate.seeds) for rate in rates] == [(2e-4, 3), (1e-3, 3)]
    assert rates[0].value == pytest.approx(line["value"]) and rates[0].low <= rates[0].value <= rates[0].high
    assert rates[0].loss == pytest.approx(1 - (0.75 - 20 * 2e-4) + 100 * 2e-4)
    assert [curve.loss[-1] for curve in data.runs.curves(line)] == [pytest.approx(3 - 0.746, rel=1e-4)] * 3


def test_export_is_what_is_shown_and_runs_nothing(data, tmp_path):
    rows = list(csv.DictReader(io.StringIO(pages.csv(data, "?task=piqa&sort=value&down=1"))))
    assert [row["method"] for row in rows] == methods(data, "?task=piqa&sort=value&down=1")
    assert float(rows[0]["value"]) == named(data, "filet", "piqa")["value"]
    other = data_of(write_results(tmp_path / "r", methods={"=cmd()": 0.5}, rates=(1e-3,), seeds=1), tmp_path / "board")
    assert "'=cmd()" in pages.csv(other, "")


def test_recommendation_names_method_rate_and_how_sure(data):
    page = shown(data, "?view=recommend&for_task=piqa")
    assert "Take filet at learning rate 0.0002" in page.text and "How sure: high" in page.text
    tight = shown(data, "?view=recommend&for_task=piqa&seconds=12.5&memory=2")
    assert "Take filet" not in tight.text and "Over the budget" in tight.text
    assert "No method fits this budget" in shown(data, "?view=recommend&for_task=piqa&seconds=1").text
    for wrong in ("x", "-1", "nan"):
        assert "want a number above 0" in shown(data, f"?view=recommend&for_task=piqa&memory={wrong}").text


def test_a_leaderboard_without_results_says_so(tmp_path):
    empty = data_of(tmp_path / "nothing", tmp_path / "board")
    assert "what papers report" in shown(empty, "").text
    for view in ("tradeoffs", "rates", "curves"):
        assert "No measured line" in shown(empty, f"?view={view}").text
    assert "Nothing was measured yet" in shown(empty, "?view=recommend").text


def test_commands_of_strangers_stay_words():
    assert commands.recorded("hubinit bench; rm -rf ~ `id` $(id)") == "hubinit 'bench;' rm -rf '~' '`id`' '$(id)'"
    assert [commands.recorded(text) for text in ("rm -rf /", "", None, 'hubinit "')] == [None] * 4
    row = dict.fromkeys(
        ("dtype", "calibration", "recipe", "train_samples", "validation_samples", "rslora", "kind", "revision")
    )
    row |= {
        "model": "a/b; rm x",
        "method": "filet",
        "options": '{"top":"$(id)"}',
        "rank": 8,
        "alpha": 16.0,
        "lr": 1e-4,
        "seed": 1,
    }
    row |= {"train_data": "piqa+boolq", "calibration_samples": 32, "target_modules": "q_proj,v_proj", "key": "0" * 16}
    row["recipe"] = '{"optimiser":"lora+","steps":5}'
    words = shlex.split(commands.train_command(row))
    assert words[2] == "a/b; rm x" and words[words.index("--task") + 1] == "piqa,boolq"
    settings = [value for word, value in itertools.pairwise(words) if word == "--set"]
    assert settings == [
        "target_modules=[q_proj,v_proj]",
        "recipe.steps=5",
        "alpha=16.0",
        'methods={"filet": {"top": "$(id)"}}',
    ]
    assert words[words.index("--optimizer") + 1] == "lora+"
    assert compile(commands.loading_snippet(row | {"model": '"; import os #'}), "snippet", "exec")
    assert protocol_of("hubinit bench --protocol='quick' x") == "quick" and protocol_of("hubinit bench") is None


def test_every_method_of_the_registry_and_of_papers_has_a_family():
    from hubinit.methods import METHODS

    names = {*METHODS, *(row["method"] for row in reported()), "none", "full"}
    assert [name for name in sorted(names) if family_of(name) == OTHER] == []
    assert family_of("peft:vera") == OTHER
    for name, method in METHODS.items():
        sees_data = bool(method.statistics(method.options()))
        assert sees_data == (family_of(name) in ("activations", "gradients", "Fisher information")), name


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_point_dominates(seed):
    points = [tuple(map(float, point)) for point in np.random.default_rng(seed).integers(0, 6, (15, 2))]

    def beaten(point):
        return any(o != point and o[0] <= point[0] and o[1] >= point[1] for o in points)

    assert sorted(pareto(points)) == [i for i, point in enumerate(points) if not beaten(point)]
    costs = [points[one][0] for one in pareto(points)]
    assert costs == sorted(costs) and pareto([]) == []
