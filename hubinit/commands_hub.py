"""What push, pull, find, sync and leaderboard do, without the parsing."""

import json
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi, is_offline_mode

from hubinit.cli.console import console, say
from hubinit.errors import HubinitError


def run_push(directory: Path, repo_id: str, *, create_pr: bool, public: bool, as_json: bool) -> None:
    """Publishes (or queues) an adapter folder."""
    from hubinit.hub.delivery import arrived, deliver
    from hubinit.hub.push import of_folder, push
    from hubinit.tasks import TASKS

    api = HfApi()
    datasets = {name: task.dataset for name, task in TASKS.items()}
    if is_offline_mode():
        if create_pr:
            raise HubinitError("A pull request cannot be queued; use --create-pr where the Hub can be reached.")
        done = deliver(api, of_folder(api, directory, repo_id, datasets), private=not public)
    else:
        done = arrived(api, push(api, directory, repo_id, create_pr=create_pr, public=public, datasets=datasets))
    if as_json:
        print(json.dumps(asdict(done), indent=1, default=str))
    else:
        say(done)


def run_pull(repo_id: str, *, out: Path | None, revision: str | None, as_json: bool) -> None:
    """Downloads and checks an adapter, and prints how to load it."""
    from hubinit.hub.cards import loading_snippet
    from hubinit.hub.publication import num_labels
    from hubinit.hub.pull import pull

    pulled = pull(HfApi(), repo_id, revision=revision, out=out)
    spec = pulled.manifest.result.spec
    labels = num_labels(pulled.folder / "adapter_model.safetensors") if spec.model.kind == "vision" else None
    snippet = loading_snippet(pulled.manifest, str(pulled.folder), num_labels=labels)
    if as_json:
        summary = {
            "repo": repo_id,
            "revision": pulled.revision,
            "folder": str(pulled.folder.resolve()),
            "snippet": snippet,
            "manifest": json.loads(pulled.manifest.model_dump_json()),
        }
        print(json.dumps(summary, indent=1))
        return
    say(f"{pulled.manifest.kind} adapter, every file checked: {pulled.folder.resolve()}")
    say(f"\nLoad it with transformers and peft:\n\n{snippet}")


def run_find(model: str | None, task: str | None, method: str | None, *, kind: str | None, as_json: bool) -> int:
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
    from hubinit import methods
    from hubinit.hub.cards import one_line
    from hubinit.hub.find import find
    from hubinit.models.names import resolve
    from hubinit.tasks import SUITES

    if method is not None:
        methods.get(method)  # knows what the user may have meant
    tasks = SUITES.get(task, (task,)) if task is not None else ()
    base = resolve(model).id if model else None
    found = find(HfApi(), model=base, tasks=tasks, method=method, kind=kind)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
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
    from hubinit.hub.delivery import arrived, outbox_folder
    from hubinit.hub.outbox import sync

    if is_offline_mode():
        raise HubinitError("sync needs the Hub; run it without --hub offline and HF_HUB_OFFLINE.")
    api = HfApi()
    sent = []
    for repo in sync(api, outbox_folder()):
        sent.append(arrived(api, repo))
        if not as_json:
            say(sent[-1])
    if as_json:
        print(json.dumps([asdict(done) for done in sent], indent=1, default=str))
    elif not sent:
        say("Nothing waits to be sent.")


def run_leaderboard(out: Path, *, push_to: str | None, public: bool, as_json: bool) -> None:
    """Prints the ranking of a folder of results, and publishes their rows when asked to."""
    from hubinit.hub.delivery import deliver_leaderboard
    from hubinit.records import ResultStore
    from leaderboard import aggregate, render

    results = list(ResultStore(out).results())
    if not results:
        raise HubinitError(f"{out.resolve()} holds no results; give the folder that `hubinit bench --out` wrote.")
    runs = aggregate.table(results)
    ranking = aggregate.rank(runs)
    done = None
    if push_to is not None:
        repo_id = push_to if "/" in push_to else f"{push_to}/hubinit-leaderboard"
        done = deliver_leaderboard(HfApi(), results, repo_id, private=not public)
    if as_json:
        summary = {
            "ranking": json.loads(ranking.to_json(orient="records")),
            "failures": json.loads(aggregate.failures(runs).to_json(orient="records")),
            "published": asdict(done) if done else None,
        }
        print(json.dumps(summary, indent=1, default=str))
        return
    console.print(render.terminal(ranking, aggregate.failures(runs)))
    if done:
        say(done)
