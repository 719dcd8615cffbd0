"""A start point that says at which learning rate its training may begin."""

import json
import re

import pytest

from hubinit.cli.starting import run_init
from hubinit.data import chat
from hubinit.errors import HubinitError
from hubinit.inits.make import load_base
from hubinit.inits.plan import StartRequest, plan_start
from hubinit.models import names
from hubinit.runs.costs import Stopwatch
from hubinit.runs.stages import attach_start
from hubinit.training.advice import MEASURED, SUGGESTED, how_sure
from hubinit.training.curvature import EXAMPLES, suggest_learning_rate
from tests import texts

ROWS = 20


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """Makes a start on rows of the user's own: what is printed as JSON, the card, and what is on standard error."""
    monkeypatch.setattr(names, "pin", lambda spec: spec)
    model = str(texts.save_model(tmp_path / "model"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"Question {n}: who?", "completion": f" The {n}th."}) + "\n" for n in range(ROWS))
    )

    def make(method, name="start", data=str(rows), **changes):
        request = StartRequest(model, method, data=data, rank=2, dtype="float32", suggest_rate=True, **changes)
        run_init(request, out=tmp_path / name, push=None, public=False, force=False, dry_run=False, as_json=True)
        printed = capsys.readouterr()
        return json.loads(printed.out), (tmp_path / name / "README.md").read_text(), printed.err

    return make


@pytest.mark.parametrize("method", ["pissa", "lora-da"])
def test_the_card_and_the_json_say_what_the_curvature_suggests(made, method, tmp_path):
    summary, card, _ = made(method)
    rate = summary["suggested_learning_rate"]
    assert summary["result"]["initialisation"][SUGGESTED] == rate
    assert f"**{rate:.1e}** for AdamW. {how_sure(method)}" in card
    assert summary["how_sure"] == how_sure(method)
    if (
        method == "pissa"
    ):  # the same by hand: the start attached anew, measured on the first rows that the data's seed chose
        request = StartRequest(
            str(tmp_path / "model"), method, data=str(tmp_path / "rows.jsonl"), rank=2, dtype="float32"
        )
        planned = plan_start(StartRequest(**{**vars(request), "suggest_rate": True}))
        loaded = load_base(planned.spec, Stopwatch(), lambda *told: None)
        pool = chat.examples(planned.own, loaded.processor, samples=EXAMPLES, seed=0)
        model = attach_start(planned.spec, loaded, None, population=None)
        found = suggest_learning_rate(model, loaded.processor, pool, planned.trial.recipe)
        assert rate == pytest.approx(found.rate, rel=1e-5)


def test_the_start_point_is_the_same_one(made):
    with_rate, _, _ = made("pissa")
    again, _, told = made("pissa")
    assert again["result"]["key"] == with_rate["result"]["key"]
    assert again["suggested_learning_rate"] == with_rate["suggested_learning_rate"], "kept, not measured again"
    assert "made before" in told
    assert "delete" not in told


def test_without_data_or_a_suggestion(made, monkeypatch):
    with pytest.raises(HubinitError, match="give it --task or --data"):
        made("lora", data=None)

    def fail(*given):
        raise HubinitError("flat")

    monkeypatch.setattr("hubinit.inits.make.suggest_learning_rate", fail)
    summary, card, told = made("lora", name="flat")
    assert summary["suggested_learning_rate"] is None
    assert "No learning rate is suggested: flat" in told
    assert "suggests" not in card
    _, _, told = made("lora", name="flat")
    assert re.search(r"delete \S+flat or choose another --out", told.replace("\n", " "))


def test_what_is_said_of_a_method_is_what_was_measured():
    assert all(f"{times:g} times" in how_sure(name) for name, times in MEASURED.items())
    assert how_sure("filet").startswith("Do not train filet with it")
    assert how_sure("eva").startswith("Nobody has checked it for eva")
