"""Discussions and pull requests through the real client, between two people with different rights."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

bob = HfApi(token="hf_bob")
anonymous = HfApi(token=False)


@pytest.fixture
def repo(api, request):
    name = f"alice/{request.function.__name__.replace('_', '-')}"
    api.create_repo(name, exist_ok=True)
    files = {"a.txt": b"one\n", "b.txt": b"two\n", "w.bin": b"\0weights"}
    api.create_commit(name, [CommitOperationAdd(*item) for item in files.items()], commit_message="base")
    return name


def status_of(call):
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


def content(api, repo, path, **options):
    return Path(api.hf_hub_download(repo, path, **options)).read_bytes()


def test_discussion(api, repo):
    opened = bob.create_discussion(repo, title="A question", description="Why <b>so</b>?")
    assert (opened.num, opened.title, opened.author) == (1, "A question", "bob")
    assert (opened.status, opened.is_pull_request) == ("open", False)
    assert opened.events[0].content == "Why <b>so</b>?"
    assert "<b>" not in opened.events[0].rendered
    comment = api.comment_discussion(repo, 1, "Because.")
    assert (comment.author, comment.content) == ("alice", "Because.")
    edited = api.edit_discussion_comment(repo, 1, comment.id, "Because of x.")
    assert (edited.content, edited.edited, edited.number_of_edits) == ("Because of x.", True, 1)
    assert status_of(lambda: bob.edit_discussion_comment(repo, 1, comment.id, "No.")) == 403
    assert api.hide_discussion_comment(repo, 1, comment.id).hidden
    renamed = bob.rename_discussion(repo, 1, "A better question")
    assert (renamed.old_title, renamed.new_title) == ("A question", "A better question")
    assert api.change_discussion_status(repo, 1, "closed", comment="done").new_status == "closed"
    details = anonymous.get_discussion_details(repo, 1)
    assert [event.type for event in details.events] == [
        "comment",
        "comment",
        "title-change",
        "comment",
        "status-change",
    ]
    assert details.url.endswith(f"{repo}/discussions/1")
    assert status_of(lambda: anonymous.create_discussion(repo, title="Hi there")) == 401
    assert status_of(lambda: api.get_discussion_details(repo, 99)) == 404
    assert status_of(lambda: bob.merge_pull_request(repo, 1)) in (400, 403)


def test_lists_of_discussions(api, repo):
    for number in range(12):
        bob.create_discussion(repo, title=f"Question {number}")
    pull = api.create_pull_request(repo, title="A change")
    api.change_discussion_status(repo, 3, "closed")
    assert [item.num for item in api.get_repo_discussions(repo)] == list(range(13, 0, -1))
    assert [item.num for item in api.get_repo_discussions(repo, discussion_type="pull_request")] == [pull.num]
    assert [item.num for item in api.get_repo_discussions(repo, discussion_status="closed")] == [3]
    assert len(list(api.get_repo_discussions(repo, discussion_type="discussion", discussion_status="open"))) == 11
    assert len(list(api.get_repo_discussions(repo, author="bob"))) == 12


def test_pull_request_by_commit(api, repo):
    """Bob may not write to the repo, so he proposes; the owner merges."""
    operations = [
        CommitOperationAdd("a.txt", b"ONE\n"),
        CommitOperationAdd("n.bin", b"\0new"),
        CommitOperationDelete("b.txt"),
    ]
    assert status_of(lambda: bob.create_commit(repo, operations, commit_message="direct")) == 403
    info = bob.create_commit(repo, operations, commit_message="My change", commit_description="why", create_pr=True)
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    assert content(api, repo, "a.txt") == b"one\n"
    assert content(api, repo, "a.txt", revision="refs/pr/1") == b"ONE\n"
    assert content(api, repo, "n.bin", revision="refs/pr/1") == b"\0new"
    details = api.get_discussion_details(repo, 1)
    assert (details.status, details.author, details.title) == ("open", "bob", "My change")
    assert (details.target_branch, details.conflicting_files, details.git_reference) == (
        "refs/heads/main",
        [],
        "refs/pr/1",
    )
    assert "-one\n+ONE\n" in details.diff
    assert [ref.ref for ref in api.list_repo_refs(repo, include_pull_requests=True).pull_requests] == ["refs/pr/1"]
    assert api.list_repo_refs(repo).pull_requests is None
    api.upload_file(path_or_fileobj=b"meanwhile", path_in_repo="c.txt", repo_id=repo)
    assert status_of(lambda: bob.merge_pull_request(repo, 1)) == 403
    api.merge_pull_request(repo, 1, comment="thanks")
    assert sorted(api.list_repo_files(repo)) == [".gitattributes", "a.txt", "c.txt", "n.bin", "w.bin"]
    assert content(api, repo, "a.txt") == b"ONE\n"
    merged = api.get_discussion_details(repo, 1)
    assert (merged.status, merged.merge_commit_oid) == ("merged", api.model_info(repo).sha)
    assert status_of(lambda: api.merge_pull_request(repo, 1)) == 400
    late = [CommitOperationAdd("a.txt", b"late")]
    assert status_of(lambda: bob.create_commit(repo, late, commit_message="x", revision="refs/pr/1")) == 403


def test_draft_then_open(api, repo):
    pull = bob.create_pull_request(repo, title="Draft of a change")
    assert pull.status == "draft"
    options = {"path_in_repo": "x.txt", "repo_id": repo, "revision": pull.git_reference}
    first = bob.upload_file(path_or_fileobj=b"1", **options)
    bob.upload_file(path_or_fileobj=b"2", parent_commit=first.oid, **options)
    with pytest.raises(HfHubHTTPError) as caught:
        bob.upload_file(path_or_fileobj=b"3", parent_commit=first.oid, **options)
    assert caught.value.response.status_code == 412
    with pytest.raises(BadRequestError):
        api.merge_pull_request(repo, pull.num)
    bob.change_discussion_status(repo, pull.num, "open")
    api.merge_pull_request(repo, pull.num)
    assert content(api, repo, "x.txt") == b"2"
    events = api.get_discussion_details(repo, pull.num).events
    assert [event.type for event in events] == ["comment", "commit", "commit", "status-change", "status-change"]
    assert events[1].oid == first.oid


def test_conflict(api, repo):
    bob.create_commit(repo, [CommitOperationAdd("a.txt", b"bob's")], commit_message="mine", create_pr=True)
    bob.create_commit(repo, [CommitOperationAdd("a.txt", b"same")], commit_message="agreed", create_pr=True)
    api.upload_file(path_or_fileobj=b"same", path_in_repo="a.txt", repo_id=repo)
    assert api.get_discussion_details(repo, 1).conflicting_files == ["a.txt"]
    assert api.get_discussion_details(repo, 2).conflicting_files == []
    assert status_of(lambda: api.merge_pull_request(repo, 1)) == 409
    assert content(api, repo, "a.txt") == b"same"
    api.change_discussion_status(repo, 1, "closed")
    assert status_of(lambda: api.merge_pull_request(repo, 1)) == 400
    api.merge_pull_request(repo, 2)


def test_pull_request_from_a_parent(api, repo):
    old = api.model_info(repo).sha
    api.upload_file(path_or_fileobj=b"newer", path_in_repo="newer.txt", repo_id=repo)
    bob.create_commit(
        repo, [CommitOperationAdd("p.txt", b"p")], commit_message="from the past", create_pr=True, parent_commit=old
    )
    assert "newer.txt" not in api.list_repo_files(repo, revision="refs/pr/1")
    api.merge_pull_request(repo, 1)
    assert {"newer.txt", "p.txt"} <= set(api.list_repo_files(repo))


def test_only_the_author_and_the_owner_push_to_a_pull_request(api, repo):
    alices = api.create_commit(repo, [CommitOperationAdd("p.txt", b"p")], commit_message="hers", create_pr=True)
    add = [CommitOperationAdd("q.txt", b"q")]
    assert status_of(lambda: bob.create_commit(repo, add, commit_message="x", revision=alices.pr_revision)) == 403
    assert status_of(lambda: bob.change_discussion_status(repo, alices.pr_num, "closed")) == 403
    bobs = bob.create_commit(repo, add, commit_message="his", create_pr=True)
    api.create_commit(repo, [CommitOperationAdd("r.txt", b"r")], commit_message="help", revision=bobs.pr_revision)
    assert {"q.txt", "r.txt"} <= set(api.list_repo_files(repo, revision=bobs.pr_revision))


def test_private_repos_have_no_discussions_for_others(api):
    api.create_repo("alice/private-talk", private=True)
    api.create_discussion("alice/private-talk", title="Internal")
    assert status_of(lambda: bob.get_discussion_details("alice/private-talk", 1)) == 404
    assert status_of(lambda: bob.create_discussion("alice/private-talk", title="Hello")) == 404
