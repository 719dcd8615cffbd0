"""Accounts, repos, settings and lists through the real client."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session

from hubinit.yamlsafe import front_matter

bob = HfApi(token="hf_bob")
anonymous = HfApi(token=False)


def status_of(call):
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


def test_whoami(api):
    assert api.whoami()["name"] == "alice"
    assert bob.whoami()["name"] == "bob"
    assert status_of(lambda: HfApi(token="hf_nobody").whoami()) == 401


def test_create_and_delete(api):
    url = api.create_repo("alice/made")
    assert (url.repo_id, url.repo_type, url.namespace) == ("alice/made", "model", "alice")
    assert api.create_repo("made", exist_ok=True).repo_id == "alice/made"
    assert status_of(lambda: api.create_repo("alice/made")) == 409
    assert api.list_repo_files("alice/made") == [".gitattributes"]
    api.delete_repo("alice/made")
    assert not api.repo_exists("alice/made")
    assert status_of(lambda: api.delete_repo("alice/made")) == 404
    api.delete_repo("alice/made", missing_ok=True)


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_types_do_not_mix(api, repo_type):
    name = f"alice/typed-{repo_type}"
    url = api.create_repo(name, repo_type=repo_type, space_sdk="static" if repo_type == "space" else None)
    assert (url.repo_id, url.repo_type) == (name, repo_type)
    assert [kind for kind in ("model", "dataset", "space") if api.repo_exists(name, repo_type=kind)] == [repo_type]
    assert api.repo_info(name, repo_type=repo_type).id == name


def test_others_namespace_is_read_only(api):
    api.create_repo("alice/mine")
    assert status_of(lambda: bob.create_repo("alice/other")) == 403
    assert status_of(lambda: bob.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="alice/mine")) == 403
    assert status_of(lambda: bob.delete_repo("alice/mine")) == 403
    assert status_of(lambda: anonymous.create_repo("alice/other")) == 401
    assert bob.model_info("alice/mine").id == "alice/mine"
    assert anonymous.model_info("alice/mine").id == "alice/mine"


def test_private_does_not_exist_for_others(api):
    api.create_repo("alice/secret", private=True)
    assert api.model_info("alice/secret").private
    for other in (bob, anonymous):
        assert not other.repo_exists("alice/secret")
        assert "alice/secret" not in [model.id for model in other.list_models(author="alice")]
        with pytest.raises(RepositoryNotFoundError):
            other.hf_hub_download("alice/secret", ".gitattributes")
    assert "alice/secret" in [model.id for model in api.list_models(author="alice")]
    api.update_repo_settings("alice/secret", visibility="public")
    assert bob.repo_exists("alice/secret")


def test_gated(api):
    api.create_repo("alice/gated")
    api.update_repo_settings("alice/gated", gated="manual")
    assert api.model_info("alice/gated").gated == "manual"
    for other in (bob, anonymous):
        with pytest.raises(GatedRepoError):
            other.hf_hub_download("alice/gated", ".gitattributes")
    assert api.hf_hub_download("alice/gated", ".gitattributes")


def test_move_redirects(api):
    api.create_repo("alice/old-name")
    api.create_repo("alice/taken")
    api.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id="alice/old-name")
    assert status_of(lambda: api.move_repo("alice/old-name", "alice/taken")) == 409
    assert status_of(lambda: api.move_repo("alice/old-name", "bob/new-name")) == 403
    api.move_repo("alice/old-name", "alice/new-name")
    assert api.model_info("alice/old-name").id == "alice/new-name"
    assert Path(api.hf_hub_download("alice/old-name", "a.txt")).read_text() == "text"
    api.upload_file(path_or_fileobj=b"more", path_in_repo="b.txt", repo_id="alice/old-name")
    assert api.file_exists("alice/new-name", "b.txt")
    assert [model.id for model in api.list_models(search="-name")] == ["alice/new-name"]
    api.create_repo("alice/old-name")
    assert not api.file_exists("alice/old-name", "a.txt")


@pytest.mark.parametrize("name", ["a/b/c", "alice/..", "alice/tree", "alice/x.git", "datasets/x", "alice/a--b"])
def test_bad_ids(hub, name):
    response = get_session().post(
        f"{hub.url}/api/repos/create",
        json={"name": name.rpartition("/")[2], "organization": name.rpartition("/")[0]},
        headers=build_hf_headers(token="hf_alice"),
    )
    assert response.status_code in (400, 403)


def test_info_describes_the_files(api):
    api.create_repo("alice/adapter")
    card = "---\nlibrary_name: peft\nbase_model: org/base\ntags: [hubinit, lora]\n"
    card += "datasets: [openai/gsm8k]\nlicense: mit\n---\n# Hi"
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="alice/adapter")
    api.upload_file(
        path_or_fileobj=b'{"base_model_name_or_path": "org/base", "peft_type": "LORA"}',
        path_in_repo="adapter_config.json",
        repo_id="alice/adapter",
    )
    api.upload_file(path_or_fileobj=b"\0" * 100, path_in_repo="weights.bin", repo_id="alice/adapter")
    info = api.model_info("alice/adapter", files_metadata=True)
    assert {"hubinit", "lora", "base_model:org/base", "base_model:adapter:org/base"} <= set(info.tags)
    assert {"dataset:openai/gsm8k", "license:mit", "peft"} <= set(info.tags)
    assert info.card_data.base_model == "org/base"
    assert info.library_name == "peft"
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs is not None) for sibling in info.siblings}
    assert sizes["weights.bin"] == (100, True)
    assert sizes["README.md"] == (len(card), False)
    expanded = api.model_info("alice/adapter", expand=["sha", "tags"])
    assert expanded.sha == info.sha
    assert expanded.siblings is None
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/adapter", revision="nowhere")


@pytest.mark.parametrize(
    ("files", "library"),
    [
        ({"config.json": b'{"model_type": "llama"}'}, "transformers"),
        ({"config.json": b'{"model_type": "llama"}', "adapter_config.json": b'{"peft_type": "LORA"}'}, "peft"),
        ({"config.json": b'{"model_type": "llama"}', "adapter_config.json": b"{}"}, "peft"),
        (
            {"config.json": b'{"model_type": "llama"}', "adapter_config.json": b'{"x": "' + b"y" * 2_000_000 + b'"}'},
            "peft",
        ),
        ({"weights.bin": b"\0"}, None),
    ],
)
def test_the_library_of_a_repo_without_a_card_follows_from_its_files(api, files, library):
    api.create_repo("alice/cardless")
    try:
        api.create_commit("alice/cardless", [CommitOperationAdd(*file) for file in files.items()], commit_message="x")
        info = api.model_info("alice/cardless")
        assert info.library_name == library
        assert ("peft" in info.tags, "transformers" in info.tags) == (library == "peft", library == "transformers")
        assert [found.id for found in api.list_models(author="alice", search="cardless", filter="peft")] == (
            ["alice/cardless"] if library == "peft" else []
        )
    finally:
        api.delete_repo("alice/cardless")


def test_lists(api):
    for number in range(7):
        api.create_repo(f"alice/listed-{number}", repo_type="dataset")
    card = b"---\ntags: [wanted]\ntask_categories: [question-answering]\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/listed-3", repo_type="dataset")
    found = [item.id for item in api.list_datasets(author="alice", search="listed")]
    assert sorted(found) == [f"alice/listed-{number}" for number in range(7)]
    assert found[0] == "alice/listed-3"  # the last one changed
    assert [item.id for item in api.list_datasets(filter="wanted")] == ["alice/listed-3"]
    assert [item.id for item in api.list_datasets(task_categories="question-answering", filter="wanted")] == [found[0]]
    assert list(api.list_datasets(filter=["wanted", "unwanted"])) == []
    created = [item.id for item in api.list_datasets(search="listed", sort="created_at")]
    assert created == [f"alice/listed-{number}" for number in reversed(range(7))]
    assert len(list(api.list_datasets(search="listed", limit=2))) == 2
    assert next(iter(api.list_datasets(filter="wanted", full=True))).card_data.tags == ["wanted"]
    assert [item.id for item in api.list_models(search="listed")] == []


def test_lists_follow_pages(api, hub):
    response = get_session().get(f"{hub.url}/api/datasets?search=listed&limit=3&full=true", headers=build_hf_headers())
    pages = [response.json()]
    while "next" in response.links:
        response = get_session().get(response.links["next"]["url"], headers=build_hf_headers())
        pages.append(response.json())
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({item["id"] for page in pages for item in page}) == 7
    assert get_session().get(f"{hub.url}/api/datasets?limit=-1").status_code == 400


def test_validate_yaml(api):
    api.create_repo("alice/cards")

    def push(card):
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/cards")

    push(b"---\nlicense: mit\n---\n")
    for bad in (b"---\ntags: {a: b}\n---\n", b"---\n- list\n---\n", b"---\na: [\n---\n"):
        with pytest.raises((BadRequestError, ValueError)):
            push(bad)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
    )
    with pytest.raises((BadRequestError, ValueError), match="too large"):
        push(f"---\n{bomb}---\n".encode())


DEEP = ["[" * 100_000, "a: " + "{b: " * 60_000, "- " * 100_000]
HOSTILE_YAML = [*DEEP, "&a [*a]", "a: &a {b: *a}", "? [1]\n: 2", "a: !!python/none x"]


@pytest.mark.parametrize("text", HOSTILE_YAML)
def test_hostile_cards_are_refused_and_harmless(hub, api, text):
    """They reach the Hub past validation too, by a commit without the client's help."""
    with pytest.raises(ValueError, match="metadata"):
        front_matter(f"---\n{text}\n---\n")
    hub.store.create_repo("model", "alice/hostile")
    hub.store.commit(
        "model", "alice/hostile", {"README.md": f"---\n{text}\n---\n".encode()}, message="m", author="alice"
    )
    assert api.model_info("alice/hostile").card_data is None
    assert [model.id for model in api.list_models(search="hostile", full=True)] == ["alice/hostile"]


def test_numbers_that_json_has_not(hub, api):
    hub.store.create_repo("model", "alice/numbers")
    files = {
        "README.md": b"---\nvalue: .nan\nother: 1e999\ntags: [.inf, a]\n---\n",
        "config.json": b'{"model_type": 1e999, "architectures": [NaN, "LlamaForCausalLM"]}',
        "model.safetensors": (30).to_bytes(8, "little") + b'{"a":{"dtype":"F","shape":[1e999]}}'[:30],
    }
    hub.store.commit("model", "alice/numbers", files, message="m", author="alice")
    info = api.model_info("alice/numbers")
    assert "a" in info.tags
    assert info.config["architectures"] == ["NaN", "LlamaForCausalLM"]


def test_auth_check(api):
    api.create_repo("alice/checked", private=True)
    api.auth_check("alice/checked")
    api.auth_check("alice/checked", write=True)
    with pytest.raises(RepositoryNotFoundError):
        bob.auth_check("alice/checked")
