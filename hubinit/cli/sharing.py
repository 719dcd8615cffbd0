"""What push, pull, find, finish and sync do and print."""

import json
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode

from hubinit import methods
from hubinit.cli.console import say, say_json
from hubinit.errors import HubinitError
from hubinit.hub.cards import loading_snippet
from hubinit.hub.find import find
from hubinit.hub.finish import finish
from hubinit.hub.outbox import Delivered, deliver, outbox_folder, sync
from hubinit.hub.publication import num_labels
from hubinit.hub.pull import pull
from hubinit.hub.send import of_folder, push
from hubinit.models.names import resolve
from hubinit.records import AdapterKind
from hubinit.tasks import SUITES
from hubinit.text import one_line


def run_push(
    directory: Path, repo_id: str, *, create_pr: bool, public: bool, force: bool = False, as_json: bool
) -> None:
    """Publishes (or queues) an adapter folder."""
    api = HfApi()
    if is_offline_mode():
        if create_pr:
            raise HubinitError("A pull request cannot be queued; use --create-pr where the Hub can be reached.")
        done = deliver(api, of_folder(api, directory, repo_id), private=not public, replace=force)
    else:
        commit = push(api, directory, repo_id, create_pr=create_pr, public=public, force=force)
        done = Delivered.to_hub(api, repo_id, "model", commit)
    if as_json:
        say_json(asdict(done))
    else:
        say(done)


def run_pull(repo_id: str, *, out: Path | None, revision: str | None, as_json: bool) -> None:
    """Downloads and checks an adapter, and prints how to load it."""
    pulled = pull(HfApi(), repo_id, revision=revision, out=out, answers=True)
    spec = pulled.manifest.result.spec
    labels = num_labels(spec.model, pulled.folder)
    snippet = loading_snippet(pulled.manifest, str(pulled.folder), num_labels=labels)
    if as_json:
        summary = {
            "repo": repo_id,
            "revision": pulled.revision,
            "folder": str(pulled.folder.resolve()),
            "snippet": snippet,
            "manifest": json.loads(pulled.manifest.model_dump_json()),
        }
        say_json(summary)
        return
    say(f"{pulled.manifest.kind} adapter, every file checked: {pulled.folder.resolve()}")
    say(f"\nLoad it with transformers and peft:\n\n{snippet}")


def run_find(
    model: str | None, task: str | None, method: str | None, *, kind: AdapterKind | None, as_json: bool
) -> int:
    """Prints the adapters on the Hub that fit.

    Args:
        model: alias or Hub id of the base.
        task: task, suite (adapters whose data hold all of its tasks), or name of a user's own data.
        method: initialisation method.
        kind: `initialised` or `trained`.
        as_json: whether to print JSON.

    Returns:
        How many there are.

    Raises:
        HubinitError: an unknown method or model, or the Hub cannot be asked.
    """
    if method is not None:
        methods.get(method)  # knows what the user may have meant
    tasks = SUITES.get(task, (task,)) if task is not None else ()
    base = resolve(model).id if model else None
    found = find(HfApi(), model=base, tasks=tasks, method=method, kind=kind)
    if as_json:
        say_json([asdict(one) for one in found])
        return len(found)
    if not found:
        say("No adapter on the Hub fits; make one with `hubinit init`.")
        return 0
    for one in found:
        data = f", {', '.join(one.tasks)}" if one.tasks else ""
        lines = [f"{one.kind}: {one.method}, rank {one.rank or 'unknown'}, for {one.base_model}{data}"]
        for score in one.scores:
            error = f" ± {score.stderr:.3f}" if score.stderr is not None else ""
            count = f" (n = {score.n})" if score.n else ""
            lines.append(f"{score.task} {score.metric} {score.value:.3f}{error}{count}")
        say(f"{one.repo_id}{' (private)' if one.private else ''}")
        for line in lines:
            say(f"    {one_line(line)}")  # others wrote it: no line breaks, no control characters
    say("Load one with `hubinit pull REPO`, or as its card says.")
    return len(found)


def run_sync(*, as_json: bool) -> None:
    """Sends what waits in the outbox."""
    if is_offline_mode():
        raise HubinitError("sync needs the Hub; run it without --hub offline and HF_HUB_OFFLINE.")
    api = HfApi()
    sent = []
    for done in sync(api, outbox_folder()):
        sent.append(done)
        if not as_json:
            say(sent[-1])
    if as_json:
        say_json([asdict(done) for done in sent])
    elif not sent:
        say("Nothing waits to be sent.")


def run_finish(adapter: Path, init: str, out: Path, *, push: str | None, public: bool, as_json: bool) -> None:
    """Makes an adapter right for the untouched base, publishes it when asked to, and says what it is."""
    api = HfApi()
    saved = finish(adapter, init, out, api=api)
    done = deliver(api, of_folder(api, out, push), private=not public, replace=False) if push else None
    if as_json:
        say_json({**asdict(saved), "published": asdict(done) if done else None})
        return
    say(f"Exact on the untouched base: {out.resolve()}")
    say(f"It has rank {saved.rank}: vLLM needs --max-lora-rank {saved.rank} or more.")
    say(done or f"Publish it with: hubinit push {out} NAMESPACE/NAME")
