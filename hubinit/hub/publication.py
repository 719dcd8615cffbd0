"""What an adapter repo will hold: built and checked from a folder and a run result, before anything is sent."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi

from hubinit.adapters import head_size
from hubinit.errors import HubError
from hubinit.hub.cards import adapter_card, public_name
from hubinit.hub.eval_results import Benchmark, eval_files, find_benchmarks
from hubinit.hub.manifest import CARD, Content, check_text, content_hash, list_files, read_checked
from hubinit.methods import METHODS
from hubinit.models.kinds import KINDS, start_of
from hubinit.paths import sha256_of
from hubinit.records import ITEMS, MANIFEST, AdapterKind, Manifest, RunResult, items_name
from hubinit.remote import HUB_ERRORS
from hubinit.specs import ModelSpec, RunSpec
from hubinit.tasks import TASKS, Task
from hubinit.yamlsafe import front_matter

FOLDERS: dict[AdapterKind, str] = {"initialised": "init", "trained": "adapter"}  # in the folder of a run
NAME_LENGTH = 96
CARD_BYTES = 1 << 20  # what is read of the base's card
_UNREADABLE: tuple[type[Exception], ...] = (*HUB_ERRORS, ValueError)


@dataclass(frozen=True)
class Publication:
    """The whole content of an adapter repo: bytes of small files, checked weights on the disk.

    `manifest` is None for a PEFT adapter that hubinit did not make.
    """

    repo_id: str
    files: dict[str, Content]
    manifest: Manifest | None = None

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the content."""
        hashes = {name: content_hash(content) for name, content in self.files.items()}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def message(self) -> str:
        """Title of the commit; names the content."""
        what = f"{self.manifest.result.spec.method.name}: {self.manifest.kind}" if self.manifest else "PEFT"
        return f"{what} adapter [{self.digest}]"


def of_run(
    api: HfApi,
    result: RunResult,
    folder: Path,
    namespace: str,
    *,
    tasks: Mapping[str, Task] = TASKS,
    suite: str | None = None,
) -> list[Publication]:
    """The repos of one run: its start point (`init/`) and the trained adapter (`adapter/`), as far as they are there.

    Args:
        api: for reading the base model's licence.
        result: the run.
        folder: its folder.
        namespace: user or organisation.
        tasks: the registered tasks.
        suite: what to call the training data in the repo's name when it is more than one task.

    Raises:
        HubError: a file that must not be published.
    """
    present = {kind: folder / name for kind, name in FOLDERS.items() if (folder / name).is_dir()}
    names = {kind: repo_name(result.spec, kind, namespace, suite) for kind in present}
    licence = base_licence(api, result.spec) if present else {}
    benchmarks = find_benchmarks(api, _on_a_hub(tasks).values()) if "trained" in present else {}
    return [
        of_adapter(
            result,
            path,
            kind,
            names[kind],
            counterpart=next((name for other, name in names.items() if other != kind), None),
            licence=licence,
            tasks=tasks,
            benchmarks=benchmarks,
        )
        for kind, path in present.items()
    ]


def of_adapter(
    result: RunResult,
    folder: Path,
    kind: AdapterKind,
    repo_id: str,
    *,
    counterpart: str | None = None,
    licence: Mapping[str, Any] | None = None,
    tasks: Mapping[str, Task] = TASKS,
    benchmarks: Mapping[str, Benchmark] | None = None,
) -> Publication:
    """One adapter repo; touches no network.

    Args:
        result: the run it belongs to.
        folder: adapter files, and `anchor/` where the start point needs one.
        kind: what the folder holds.
        repo_id: where it will go.
        counterpart: the other repo of the run.
        licence: of the base model (`base_licence`).
        tasks: the registered tasks.
        benchmarks: the tasks that are registered benchmarks (`hubinit.hub.eval_results.find_benchmarks`).

    Raises:
        HubError: a file that must not be published, no adapter in the folder, a trained adapter that is not the one the
            result scored, or a base that is not on a Hub.
    """
    spec = result.spec
    require_hub_id(spec.model.id)
    files = _adapter_files(folder)
    if missing := {"adapter_config.json", "adapter_model.safetensors"} - files.keys():
        raise HubError(f"{folder} is not a PEFT adapter: {' and '.join(sorted(missing))} is missing.")
    weights = content_hash(files["adapter_model.safetensors"])
    if kind == "trained" and result.adapter_sha256 is not None and weights != result.adapter_sha256:
        raise HubError(
            f"{folder / 'adapter_model.safetensors'} is not the adapter that the result of this run scored: "
            "it was changed or replaced since; run it again before publishing it."
        )
    for name, content in files.items():
        if PurePosixPath(name).name == "adapter_config.json" and isinstance(content, bytes):
            files[name] = _on_the_hub(content, name, spec)
    hashes = {name: content_hash(content) for name, content in files.items()}
    manifest = Manifest(kind=kind, result=result, start=start_of(spec).key, files=hashes)
    card = card_of(manifest, repo_id, folder, counterpart=counterpart, licence=licence, tasks=tasks)
    ours = {CARD: card.encode(), MANIFEST: manifest.json_text().encode()}
    if kind == "trained":
        ours |= eval_files(result, benchmarks or {})
        files |= item_files(result, folder)
    for name, text in ours.items():
        check_text(text.decode(), name)
    files |= ours
    return Publication(repo_id, files, manifest)


def item_files(result: RunResult, folder: Path) -> dict[str, Content]:
    """The item records that the scores of a run were made from, as far as they are there unchanged.

    Args:
        result: the run.
        folder: its adapter, beside which a run keeps them; a pulled one holds them.

    Raises:
        HubError: text in them looks like an access token.
    """
    files: dict[str, Content] = {}
    for score in result.scores:
        name = f"{ITEMS}/{items_name(score.eval)}"
        for path in (folder / name, folder.resolve().parent / name):
            if score.items is not None and path.is_file() and not path.is_symlink() and sha256_of(path) == score.items:
                files[name] = read_checked(path, name)
    return files


def card_of(
    manifest: Manifest,
    repo_id: str,
    folder: Path,
    *,
    counterpart: str | None = None,
    licence: Mapping[str, Any] | None = None,
    tasks: Mapping[str, Task] = TASKS,
) -> str:
    """The card of the adapter in a folder; arguments as for `of_adapter`."""
    spec = manifest.result.spec
    return adapter_card(
        manifest,
        repo_id,
        counterpart=counterpart,
        licence=licence,
        tasks=_on_a_hub(tasks),
        method=METHODS.get(spec.method.name),
        num_labels=num_labels(spec.model, folder),
    )


def describe(result: RunResult, folder: Path, kind: AdapterKind) -> Manifest:
    """Writes `hubinit.json` beside an adapter, so that the folder can be pushed later.

    Args:
        result: the run it belongs to.
        folder: the adapter.
        kind: what the folder holds.

    Raises:
        HubError: a file in the folder must not be published.
    """
    files = {name: content_hash(content) for name, content in _adapter_files(folder).items()}
    manifest = Manifest(kind=kind, result=result, start=start_of(result.spec).key, files=files)
    manifest.write(folder)
    return manifest


def repo_name(spec: RunSpec, kind: AdapterKind, namespace: str, suite: str | None = None) -> str:
    """`<namespace>/<model>-<method>[-init]-r<rank>-<data>-<key>`: stable, valid on the Hub, at most 96 characters.

    A start point is named by what it depends on (`start_of`), so that all learning rates, and `hubinit init`, share it. The
    name of a user's own data file is left out.
    """
    spec = start_of(spec) if kind == "initialised" else spec
    known = _on_a_hub(TASKS)
    tasks = [public_name(name, known) for name in spec.data.tasks] if spec.data else []
    data = (suite if tasks else "") or ("-".join(tasks) if len(tasks) < 3 else f"{tasks[0]}-and-{len(tasks) - 1}-more")
    tail = [spec.method.name, *(["init"] if kind == "initialised" else []), f"r{spec.rank}", data]
    end = f"-{spec.key[:8]}"
    room = NAME_LENGTH - len(namespace) - 1 - len(end)
    name = "-".join(_slug(part) for part in [spec.model.id.split("/")[-1].lower(), *tail] if _slug(part))
    return f"{namespace}/{name[:room].rstrip('-.')}{end}"


def write_about(
    result: RunResult, folder: Path, kind: AdapterKind, api: HfApi, *, final: Path | None = None
) -> Manifest:
    """Writes `hubinit.json` and the card of an adapter that stays in a folder.

    Args:
        result: the run it belongs to.
        folder: the adapter.
        kind: what the folder holds.
        api: to ask for the base's licence.
        final: where the folder will lie, which the card says. Default: where it lies.

    Raises:
        HubError: a file in the folder must not be published.
    """
    manifest = describe(result, folder, kind)
    card = card_of(manifest, str(final or folder), folder, licence=base_licence(api, result.spec))
    (folder / CARD).write_text(card, encoding="utf-8")
    return manifest


def base_licence(api: HfApi, spec: RunSpec) -> dict[str, Any]:
    """`license`, `license_name` and `license_link` as the base model's card states them; empty when it cannot be read."""
    try:
        path = Path(api.hf_hub_download(spec.model.id, CARD, revision=spec.model.revision))
        with path.open(encoding="utf-8") as file:
            data = front_matter(file.read(CARD_BYTES))
    except _UNREADABLE:
        return {}
    return {key: data[key] for key in ("license", "license_name", "license_link") if isinstance(data.get(key), str)}


def num_labels(model: ModelSpec, folder: Path) -> int | None:
    """Classes of the head that is saved with an adapter; None where the base keeps its own head."""
    return head_size(folder / "adapter_model.safetensors") if KINDS[model.kind].labelled else None


def require_hub_id(model: str) -> None:
    """Checks that others can have the base of what is published.

    Raises:
        HubError: it is a folder of this machine.
    """
    if not is_hub_id(model):
        raise HubError(f"{model} is not a model on a Hub, so nobody could load an adapter for it; push it first.")


def is_hub_id(name: str) -> bool:
    """Whether others can find this on a Hub; a local folder means nothing to them."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) is not None and not Path(name).exists()


def _adapter_files(folder: Path) -> dict[str, Content]:
    """What a manifest describes: not the card, itself, or the answers, which the scores describe."""
    files = list_files(folder).items()
    return {
        name: content for name, content in files if name not in (CARD, MANIFEST) and not name.startswith(f"{ITEMS}/")
    }


def _on_a_hub(tasks: Mapping[str, Task]) -> dict[str, Task]:
    return {name: task for name, task in tasks.items() if is_hub_id(task.dataset)}


def _slug(text: str) -> str:
    return re.sub(r"[-.]{2,}", "-", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)).strip("-.")


def _on_the_hub(content: bytes, name: str, spec: RunSpec) -> bytes:
    """The adapter's configuration with the base as others know it: its Hub id, never a local path."""
    config = json.loads(content)
    if not isinstance(config, dict):
        raise HubError(f"{name} is not the configuration of a PEFT adapter; save the adapter again.")
    config["base_model_name_or_path"] = spec.model.id
    config["revision"] = spec.model.revision
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
