"""push, pull and find, with two users, against the embedded Hub."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hubinit.cli.sharing import run_find
from hubinit.errors import HubError, HubinitError
from hubinit.hub.find import find
from hubinit.hub.publication import describe
from hubinit.hub.pull import pull
from hubinit.hub.send import push
from hubinit.paths import sha256_of
from hubinit.tasks import SUITES
from tests.hub.builders import adapter_files, publish_run, run, run_folder


@pytest.fixture
def bob(hub) -> HfApi:
    return HfApi(token="hf_bob")


def test_push_takes_a_start_point_with_its_manifest_and_is_idempotent(api, tmp_path):
    folder = run_folder(tmp_path) / "init"
    describe(run(seed=31), folder, "initialised")
    first = push(api, folder, "alice/pushed")
    assert first is not None
    assert api.model_info("alice/pushed").private
    assert push(api, folder, "alice/pushed", public=True) is None
    assert not api.model_info("alice/pushed").private
    assert (
        'PeftModel.from_pretrained(base, "alice/pushed"'
        in Path(api.hf_hub_download("alice/pushed", "README.md")).read_text()
    )


def test_push_finds_the_result_of_the_run_a_folder_belongs_to(api, tmp_path):
    folder = run_folder(tmp_path) / "adapter"
    (tmp_path / "result.json").write_text(run(seed=32).model_dump_json())
    push(api, folder, "alice/pushed-trained")
    assert pull(api, "alice/pushed-trained").manifest.kind == "trained"


def test_push_of_a_plain_peft_adapter_keeps_its_own_card(api, tmp_path):
    folder = adapter_files(tmp_path / "mine")
    (folder / "README.md").write_text("# mine\n")
    push(api, folder, "alice/plain")
    assert Path(api.hf_hub_download("alice/plain", "README.md")).read_text() == "# mine\n"
    with pytest.raises(HubError, match=r"no hubinit\.json"):
        pull(api, "alice/plain")


def test_push_refuses_files_that_do_not_fit_their_manifest(api, tmp_path):
    folder = run_folder(tmp_path) / "init"
    describe(run(), folder, "initialised")
    adapter_files(folder, scale=3.0)
    with pytest.raises(HubError, match=r"adapter_model\.safetensors .* is not the file"):
        push(api, folder, "alice/never")
    assert not api.repo_exists("alice/never")


def test_push_says_which_folder_of_a_run_to_give(api, tmp_path):
    (run_folder(tmp_path) / "result.json").write_text(run().model_dump_json())
    with pytest.raises(HubError, match="push its init or adapter folder"):
        push(api, tmp_path, "alice/never")


def test_files_of_an_earlier_publication_go_away(api, tmp_path):
    publish = {"seed": 33}
    push(api, _described(run_folder(tmp_path / "a") / "init", **publish), "alice/changing")
    assert "anchor/adapter_config.json" in api.list_repo_files("alice/changing")
    other = _described(run_folder(tmp_path / "b", scale=2.0, anchor=False) / "init", **publish)
    push(api, other, "alice/changing", force=True)
    assert "anchor/adapter_config.json" not in api.list_repo_files("alice/changing")


def _described(folder: Path, **changes) -> Path:
    describe(run(**changes), folder, "initialised")
    return folder


def test_someone_without_write_access_opens_one_pull_request(api, bob, tmp_path):
    folder = _described(run_folder(tmp_path) / "init", seed=34)
    push(api, folder, "alice/shared", public=True)
    changed = _described(run_folder(tmp_path / "b", scale=2.0) / "init", seed=34)
    with pytest.raises(HubError, match="--create-pr"):
        push(bob, changed, "alice/shared")
    proposed = push(bob, changed, "alice/shared", create_pr=True)
    again = push(bob, changed, "alice/shared", create_pr=True)
    assert again.pull_request == proposed.pull_request
    assert len(list(api.get_repo_discussions("alice/shared"))) == 1
    number = int(proposed.pull_request.rsplit("/", 1)[-1])
    api.change_discussion_status("alice/shared", number, "open")
    api.merge_pull_request("alice/shared", number)
    assert push(bob, changed, "alice/shared", create_pr=True) is None, "nothing to propose any more"


def test_another_start_is_replaced_only_by_force(api, tmp_path):
    """Adapters that were trained from a start point are wrong with any other one."""
    first = _described(run_folder(tmp_path / "a") / "init", seed=81)
    push(api, first, "alice/kept")
    assert push(api, first, "alice/kept") is None, "the same start is no replacement"
    head = api.model_info("alice/kept").sha
    trained = run_folder(tmp_path / "b", scale=2.0) / "adapter"
    (tmp_path / "b" / "result.json").write_text(run(seed=81).model_dump_json())
    for other in (trained, adapter_files(tmp_path / "plain")):
        with pytest.raises(HubError, match=r"holds another start point.*--force"):
            push(api, other, "alice/kept")
    assert api.model_info("alice/kept").sha == head
    push(api, trained, "alice/kept", force=True)
    assert pull(api, "alice/kept").manifest.kind == "trained"
    again = adapter_files(tmp_path / "b" / "adapter", scale=3.0)
    assert push(api, again, "alice/kept") is not None, "a trained adapter may be renewed"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pull_renews_what_an_earlier_pull_left_and_leaves_no_anchor(api, tmp_path):
    [start, trained] = publish_run(api, run(seed=82), run_folder(tmp_path / "run"), "alice")
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "notes.txt").write_text("mine")
    pull(api, start.repo_id, out=out)
    assert (out / "anchor" / "adapter_config.json").is_file()
    assert pull(api, start.repo_id, out=out).folder == out, "twice is fine"
    pulled = pull(api, trained.repo_id, out=out)
    assert not (out / "anchor").exists(), "load_initialized would take it"
    assert files_of(out).keys() == {*pulled.manifest.files, "hubinit.json", "README.md", "mine/notes.txt"}
    assert (out / "mine" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "README.md", "anchor/adapter_config.json"])
def test_pull_overwrites_and_inherits_nothing_that_it_did_not_write(api, tmp_path, name):
    [_, trained] = publish_run(api, run(seed=83), run_folder(tmp_path / "run", anchor=False), "alice")
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(HubError, match=f"{name} is in the way"):
        pull(api, trained.repo_id, out=out)
    assert files_of(out) == {name: b"mine"}


def test_pull_keeps_a_file_that_was_changed_since_the_last_pull(api, tmp_path):
    [start, trained] = publish_run(api, run(seed=84), run_folder(tmp_path / "run"), "alice")
    pull(api, start.repo_id, out=tmp_path / "out")
    adapter_files(tmp_path / "out" / "anchor", scale=7.0)
    before = files_of(tmp_path / "out")
    with pytest.raises(HubError, match="in the way"):
        pull(api, trained.repo_id, out=tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_a_manifest_in_the_way_cannot_point_elsewhere(api, tmp_path):
    [_, trained] = publish_run(api, run(seed=85), run_folder(tmp_path / "run"), "alice")
    (tmp_path / "precious.json").write_text("{}")
    pull(api, trained.repo_id, out=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "hubinit.json").read_text())
    manifest["files"]["../precious.json"] = sha256_of(tmp_path / "precious.json")
    (tmp_path / "out" / "hubinit.json").write_text(json.dumps(manifest))
    pull(api, trained.repo_id, out=tmp_path / "out")
    assert (tmp_path / "precious.json").read_text() == "{}"


def test_pull_checks_the_base_and_copies_only_what_the_manifest_lists(api, tmp_path):
    [start, _] = publish_run(api, run(seed=35), run_folder(tmp_path / "run"), "alice")
    api.upload_file(path_or_fileobj=b"\x80", path_in_repo="evil.bin", repo_id=start.repo_id)
    pulled = pull(api, start.repo_id, base="alice/tiny-llama", base_revision="a" * 40, out=tmp_path / "out")
    assert {p.relative_to(tmp_path / "out").as_posix() for p in pulled.folder.rglob("*") if p.is_file()} == {
        *pulled.manifest.files,
        "hubinit.json",
        "README.md",
    }
    with pytest.raises(HubError, match=r"made for alice/tiny-llama, not for other/model"):
        pull(api, start.repo_id, base="other/model")
    with pytest.raises(HubError, match="not for ffff"):
        pull(api, start.repo_id, base_revision="f" * 40)


def test_pull_refuses_weights_that_were_changed_later(api, tmp_path):
    [_, trained] = publish_run(api, run(seed=36), run_folder(tmp_path), "alice")
    other = adapter_files(tmp_path / "other", scale=9.0) / "adapter_model.safetensors"
    api.upload_file(path_or_fileobj=other, path_in_repo="adapter_model.safetensors", repo_id=trained.repo_id)
    with pytest.raises(HubError, match="changed after hubinit published it"):
        pull(api, trained.repo_id)


def test_pull_repairs_a_damaged_cache(api, tmp_path):
    [_, trained] = publish_run(api, run(seed=37), run_folder(tmp_path), "alice")
    cached = Path(api.hf_hub_download(trained.repo_id, "adapter_model.safetensors"))
    good = cached.read_bytes()
    cached.resolve().write_bytes(b"0" * len(good))
    assert (pull(api, trained.repo_id).folder / "adapter_model.safetensors").read_bytes() == good


@pytest.mark.parametrize("name", ["../../escape.safetensors", "/etc/x.json", "run.py"])
def test_pull_refuses_a_manifest_with_paths_hubinit_never_writes(api, tmp_path, name):
    [_, trained] = publish_run(api, run(seed=38), run_folder(tmp_path), "alice")
    manifest = json.loads(Path(api.hf_hub_download(trained.repo_id, "hubinit.json")).read_text())
    manifest["files"] = {name: "0" * 64, **manifest["files"]}
    text = json.dumps(manifest).encode()
    api.upload_file(path_or_fileobj=text, path_in_repo="hubinit.json", repo_id=trained.repo_id)
    with pytest.raises(HubError, match="never publishes"):
        pull(api, trained.repo_id)


def _republished(api: HfApi, repo_id: str, **changes: object) -> None:
    """Replaces fields of a manifest on the Hub."""
    manifest = json.loads(Path(api.hf_hub_download(repo_id, "hubinit.json")).read_text()) | changes
    api.upload_file(path_or_fileobj=json.dumps(manifest).encode(), path_in_repo="hubinit.json", repo_id=repo_id)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_pull_refuses_a_manifest_that_lists_no_adapter(api, tmp_path, name):
    [_, trained] = publish_run(api, run(seed=40), run_folder(tmp_path), "alice")
    files = pull(api, trained.repo_id).manifest.files
    _republished(api, trained.repo_id, files={path: digest for path, digest in files.items() if path != name})
    with pytest.raises(HubError, match=rf"does not list {name}"):
        pull(api, trained.repo_id)


def test_nothing_a_manifest_says_reaches_the_terminal_as_it_is(api, tmp_path):
    [_, trained] = publish_run(api, run(seed=41), run_folder(tmp_path), "alice")
    result = json.loads(run(seed=41, model="evil\n\x1b[31mmodel").model_dump_json())
    _republished(api, trained.repo_id, result=result)
    with pytest.raises(HubError, match="made for evil") as named:
        pull(api, trained.repo_id, base="other/model")
    _republished(api, trained.repo_id, **{"x\n\x1b[31m": 1})
    with pytest.raises(HubError, match="damaged or of a newer hubinit") as refused:
        pull(api, trained.repo_id)
    assert str(named.value).isprintable()
    assert str(refused.value).isprintable()


def test_pull_of_what_is_not_there_or_not_a_manifest(api, bob, tmp_path):
    with pytest.raises(HubError, match="not on http"):
        pull(api, "alice/missing")
    [_, trained] = publish_run(api, run(seed=39), run_folder(tmp_path), "alice")
    with pytest.raises(HubError, match="may not see it"):
        pull(bob, trained.repo_id)
    api.upload_file(path_or_fileobj=b'{"x": 1}', path_in_repo="hubinit.json", repo_id=trained.repo_id)
    with pytest.raises(HubError, match="damaged or of a newer hubinit"):
        pull(api, trained.repo_id)


def test_find_filters_and_shows_scores(api, bob, tmp_path):
    model = "alice/findable"
    publish_run(api, run("filet", model=model, value=0.7), run_folder(tmp_path / "a"), "alice", private=False)
    publish_run(api, run("pissa", model=model, tasks=("piqa",)), run_folder(tmp_path / "b"), "alice", private=True)
    everything = find(api, model=model)
    assert sorted((one.method, one.kind) for one in everything) == [
        ("filet", "initialised"), ("filet", "trained"), ("pissa", "initialised"), ("pissa", "trained")
    ]  # fmt: skip
    [trained] = find(api, model=model, method="filet", kind="trained", tasks=("arc-easy",))
    [score] = trained.scores
    assert (score.task, score.metric, score.value, score.n, score.stderr) == ("arc-easy", "acc_norm", 0.7, 100, 0.05)
    assert (trained.rank, trained.tasks, trained.base_model) == (2, ("arc-easy",), model)
    assert {one.method for one in find(bob, model=model)} == {"filet"}, "private repos stay private"
    assert find(api, model=model, tasks=("boolq",)) == []


def test_find_by_suite_wants_all_of_its_tasks_and_a_wrong_method_gets_a_hint(api, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setitem(SUITES, "pair", ("piqa", "boolq"))
    model = "alice/suites"
    whole = publish_run(api, run(model=model, tasks=("boolq", "arc-easy", "piqa")), run_folder(tmp_path / "a"), "alice")
    publish_run(api, run(model=model, tasks=("piqa",)), run_folder(tmp_path / "b"), "alice")
    assert run_find(model, "pair", None, kind=None, as_json=True) == 2
    assert {one["repo_id"] for one in json.loads(capsys.readouterr().out)} == {repo.repo_id for repo in whole}
    assert run_find(model, "piqa", "filet", kind="trained", as_json=True) == 2
    with pytest.raises(HubinitError, match=r"Unknown method 'filett': did you mean filet"):
        run_find(model, None, "filett", kind=None, as_json=True)


def test_find_asks_the_hub_for_the_kind_so_that_a_limit_hides_none(api, tmp_path):
    model = "alice/many-kinds"
    publish_run(api, run(model=model), run_folder(tmp_path), "alice")  # the trained adapter is the newest
    assert [one.kind for one in find(api, model=model, kind="initialised", limit=1)] == ["initialised"]
    assert [one.kind for one in find(api, model=model, kind="trained", limit=1)] == ["trained"]


def test_find_tells_two_tasks_of_one_data_set_apart(api, tmp_path):
    model = "alice/two-arcs"
    result = run(model=model, tasks=("arc-easy", "arc-challenge"))
    easy, challenge = result.scores
    scores = (easy.model_copy(update={"value": 0.7}), challenge.model_copy(update={"value": 0.3}))
    publish_run(api, result.model_copy(update={"scores": scores}), run_folder(tmp_path), "alice")
    [trained] = find(api, model=model, kind="trained")
    assert {(score.task, score.value) for score in trained.scores} == {("arc-easy", 0.7), ("arc-challenge", 0.3)}


def test_find_survives_hostile_cards(api):
    cards = {
        "alice/hostile-1": "hubinit: [1, 2]",
        "alice/hostile-2": "hubinit: {kind: 3, method: {a: b}, rank: x, tasks: y}\nmodel-index: [5]",
        "alice/hostile-3": "hubinit: {kind: trained}\nmodel-index:\n- name: x\n  results:\n  - task: {type: t}\n"
        "    dataset: {type: d, name: d}\n    metrics:\n    - {type: acc, value: high, args: [1]}",
    }
    for repo, card in cards.items():
        api.create_repo(repo)
        text = (
            f"---\nbase_model: alice/hostile-base\nbase_model_relation: adapter\ntags: [hubinit, lora]\n{card}\n---\n"
        )
        api.create_commit(repo, [_add("README.md", text)], commit_message="card")
    assert all(one.scores == () for one in find(api, model="alice/hostile-base"))


def _add(name: str, text: str):
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(name, text.encode())
