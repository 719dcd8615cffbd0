"""Results are stored whole or not at all, and a damaged or edited one is noticed."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubinit.errors import HubinitError
from hubinit.paths import write_atomically
from hubinit.records import Item, Provenance, ResultStore, RunResult, Score, read_items, read_result, write_items
from hubinit.specs import EvalSpec, MethodSpec, ModelSpec, RunSpec
from tests.bombs import write_bomb

PROVENANCE = Provenance(versions={"torch": "1"}, hardware={"cpu": "x"}, command="hubinit bench", created="2026-01-01")


def result(seed: int = 0, **fields) -> RunResult:
    spec = RunSpec(
        model=ModelSpec(id="org/name"), method=MethodSpec(name="lora"), rank=4, alpha=8, seed=seed, learning_rate=1e-3
    )
    return RunResult(key=spec.key, spec=spec, status="ok", provenance=PROVENANCE, **fields)


def test_round_trip(tmp_path):
    store = ResultStore(tmp_path)
    score = Score(task="arc-easy", metric="acc", value=0.5, n=10, stderr=0.1, eval=EvalSpec(task="arc-easy"))
    first, second = result(0, scores=(score,)), result(1)
    store.write(first)
    store.write(second)
    assert store.read(first.key) == first
    assert {r.key for r in store.results()} == {first.key, second.key}
    assert store.read("0" * 16) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": "x"}', b"\xff\xfe"])
def test_damaged_result_is_named(tmp_path, damage):
    store = ResultStore(tmp_path)
    path = store.folder("abc") / "result.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(HubinitError, match=r"result\.json is not a readable run result .* delete it"):
        store.read("abc")


def test_edited_specification_is_noticed(tmp_path):
    store = ResultStore(tmp_path)
    stored = result()
    store.write(stored)
    path = store.folder(stored.key) / "result.json"
    content = json.loads(path.read_text())
    content["spec"]["learning_rate"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(HubinitError, match="was edited"):
        store.read(stored.key)


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


@given(st.floats(1e-6, 1, allow_nan=False), st.floats(1e-6, 1, allow_nan=False), st.integers(0, 9), st.integers(0, 9))
def test_key_follows_every_input(lr, other_lr, seed, other_seed):
    def key(rate: float, seed: int) -> str:
        spec = RunSpec(
            model=ModelSpec(id="a/b"), method=MethodSpec(name="lora"), rank=4, alpha=8, learning_rate=rate, seed=seed
        )
        return spec.key

    assert (key(lr, seed) == key(other_lr, other_seed)) == ((lr, seed) == (other_lr, other_seed))


def test_key_does_not_depend_on_the_order_of_options():
    one = MethodSpec(name="filet", options={"selection": "M", "scaling": "fisher"})
    two = MethodSpec(name="filet", options={"scaling": "fisher", "selection": "M"})
    assert one.key == two.key


STORED = sorted((Path(__file__).parent / "stored" / "v0.1").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_results_of_version_0_1_load_for_ever(path):
    result = read_result(path)
    assert result.key == path.stem
    assert result.schema_version == 1
    assert result.spec.model.dtype == "auto", "version 0.1 did not say which"
    assert RunResult.model_validate_json(result.model_dump_json()) == result


def test_an_edited_result_of_version_0_1_is_noticed(tmp_path):
    content = json.loads(STORED[0].read_text())
    content["spec"]["seed"] += 1
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(HubinitError, match="was edited"):
        read_result(tmp_path / "result.json")


def test_a_result_of_a_newer_version_says_so(tmp_path):
    (tmp_path / "result.json").write_text('{"schema_version": 3, "colour": "blue"}')
    with pytest.raises(HubinitError, match="a newer hubinit wrote it"):
        read_result(tmp_path / "result.json")


def test_what_cannot_be_read_is_passed_over_and_told(tmp_path):
    store = ResultStore(tmp_path)
    store.write(result(0))
    store.folder("abc").mkdir(parents=True)
    (store.folder("abc") / "result.json").write_text("{")
    problems = []
    assert list(store.results(problems.append)) == [result(0)]
    assert store.readable("abc", problems.append) is None
    assert len(problems) == 2
    assert all("abc" in problem and "delete it" in problem for problem in problems)


ITEM_RECORDS = [
    Item(id="0", prompt_hash="ab", outputs=("a", "é\n"), extracted={"acc": "a"}, values={"acc": 1.0}, detail="why"),
    Item(id="x", values={"acc": 0.0}, log_likelihoods=(-1.5, -2.0)),
]


def test_item_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "items" / "a.parquet"
    digest = write_items(path, ITEM_RECORDS)
    assert read_items(path, digest) == ITEM_RECORDS
    assert write_items(tmp_path / "b.parquet", ITEM_RECORDS) == digest
    write_items(path, ITEM_RECORDS[:1])
    with pytest.raises(HubinitError, match="changed since"):
        read_items(path, digest)
    path.write_bytes(b"PAR1")
    with pytest.raises(HubinitError, match="does not hold the item records"):
        read_items(path)
    with pytest.raises(HubinitError, match="does not hold the item records"):
        read_items(tmp_path / "missing.parquet")


def test_a_metric_that_was_left_out_is_still_wanted():
    evaluation = EvalSpec(task="e2e")
    score = Score(task="e2e", metric="bleu", value=0.5, n=10, eval=evaluation)
    assert result(scores=(score,)).scored(evaluation)
    partial = result(scores=(score,)).model_copy(
        update={"status": "partial", "reason": "e2e without METEOR: needs Java"}
    )
    assert not partial.scored(evaluation)
    other = partial.model_copy(update={"reason": "piqa: the data set cannot be had"})
    assert other.scored(evaluation)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path):
    items = [Item(id="same", outputs=("x" * 2_000_000,))] * 300
    path = tmp_path / "bomb.parquet"
    write_items(path, items)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(HubinitError, match="holds more than"):
        read_items(path)


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path):
    """One text of 200 MB in 300 rows would be 60 GB: the reader may have 3 GB of address space, and must not need it."""
    path = tmp_path / "bomb.parquet"
    write_bomb(path, 300, "id", "x" * 200_000_000)
    limited = (
        "import resource, sys, pathlib\n"
        "from hubinit.errors import HubinitError\n"
        "from hubinit.records import read_items, read_values\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))\n"
        "for read in (read_items, lambda path: read_values(path, None, 'acc')):\n"
        "    try:\n"
        "        read(pathlib.Path(sys.argv[1]))\n"
        "    except HubinitError as error:\n"
        "        print(error)\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"  # KiB, since exec
    )
    done = subprocess.run([sys.executable, "-c", limited, path], capture_output=True, text=True, timeout=60, check=True)
    one, two, peak = done.stdout.splitlines()
    assert "holds more than" in one and "holds more than" in two
    assert int(peak) < 2**20


def test_a_table_of_other_columns_is_not_item_records(tmp_path):
    pq.write_table(pa.table({"id": [1], "values": [{"acc": 1}]}), tmp_path / "a.parquet")
    with pytest.raises(HubinitError, match="not those of item records"):
        read_items(tmp_path / "a.parquet")
