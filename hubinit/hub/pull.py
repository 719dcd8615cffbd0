"""`hubinit pull REPO` and `hubinit.load`: getting a published adapter, checked against what it says about itself."""

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi

from hubinit.errors import HubError
from hubinit.hub.cards import one_line
from hubinit.hub.manifest import ALLOWED_SUFFIXES, CARD, FILE_NAME, Manifest, read_manifest, sha256
from hubinit.hub.publication import num_labels
from hubinit.remote import call, read_file

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Pulled:
    """A checked copy of an adapter repo."""

    repo_id: str
    revision: str
    folder: Path
    manifest: Manifest


def pull(
    api: HfApi,
    repo_id: str,
    *,
    revision: str | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    out: Path | None = None,
) -> Pulled:
    """Downloads an adapter and checks the sha256 of every file; nothing that is not listed in its manifest is touched.

    Args:
        api: client; a token is needed for private repos only.
        repo_id: as from `hubinit find`.
        revision: commit, branch or tag of the adapter repo.
        base: the model it is meant for; refused when the adapter was made for another one.
        base_revision: the same for the model's commit.
        out: a folder to copy it to; default: it stays in the Hub's cache.

    Raises:
        HubError: not a hubinit repo, a file that is not what the manifest says, another base, or the Hub refuses.
    """
    sha = call(f"find {repo_id}", lambda: api.repo_info(repo_id, revision=revision).sha, api=api)
    content = read_file(api, repo_id, FILE_NAME, revision=sha)
    if content is None:
        raise HubError(f"{repo_id} has no {FILE_NAME}, so it was not published by hubinit; load it with peft directly.")
    manifest = read_manifest(content, repo_id)
    check_base(manifest, repo_id, base, base_revision)
    if missing := {"adapter_config.json", "adapter_model.safetensors"} - manifest.files.keys():
        raise HubError(
            f"{FILE_NAME} of {repo_id} does not list {' and '.join(sorted(missing))}, so it holds no adapter; "
            "ask its owner to publish it again."
        )
    paths = {name: _checked_download(api, repo_id, sha, name, digest) for name, digest in manifest.files.items()}
    read_file(api, repo_id, CARD, revision=sha)
    folder = _root(paths["adapter_config.json"], "adapter_config.json")
    if out is not None:
        _copy(folder, out, [*paths, FILE_NAME, CARD])
        folder = out
    return Pulled(repo_id, sha or "", folder, manifest)


def check_base(manifest: Manifest, where: str, base: str | None, revision: str | None = None) -> None:
    """Checks that an adapter fits a model.

    Raises:
        HubError: it was made for another model, or another revision of it.
    """
    made_for = manifest.result.spec.model
    name, commit = one_line(made_for.id), one_line(made_for.revision)  # others wrote them
    if base is not None and base != made_for.id:
        raise HubError(f"{where} was made for {name}, not for {base}; load that model, or find another adapter.")
    if revision is not None and made_for.revision is not None and revision != made_for.revision:
        raise HubError(f"{where} was made for revision {commit} of {name}, not for {revision}; load that revision.")


def load(
    base: "str | PreTrainedModel",
    repo: str,
    *,
    trainable: bool = True,
    revision: str | None = None,
    base_revision: str | None = None,
    api: HfApi | None = None,
    **model_arguments: Any,
) -> "PeftModel":
    """A base model with a published adapter on it, ready to train (or, with `trainable=False`, to use).

    A start point's anchor is merged into a float32 base; on a bfloat16 or quantised one it stays beside the adapter, frozen,
    which is exact there too.

    Args:
        base: Hub id of the base model, which is then loaded at the revision that the adapter was made for; or the model.
        repo: adapter repo.
        trainable: whether the adapter is to be trained; what its method froze stays frozen.
        revision: commit, branch or tag of the adapter repo.
        base_revision: refuse an adapter that was made for another commit of the base.
        api: client; default: the environment's.
        **model_arguments: for `from_pretrained` of the base, such as `quantization_config` or `device_map`. A start point's
            base is loaded in float32 unless `dtype` says otherwise; a base in another format than safetensors only with
            `use_safetensors=False`.

    Raises:
        HubError: the adapter does not fit the base, is damaged, or cannot be read.
    """
    import transformers

    from hubinit.adapters import load_initialized

    api = api or HfApi()
    if not isinstance(base, str):
        name, commit = _identity(base)
        pulled = pull(api, repo, revision=revision, base=name, base_revision=base_revision or commit)
        model = base
    else:
        pulled = pull(api, repo, revision=revision, base=base, base_revision=base_revision)
        spec = pulled.manifest.result.spec.model
        model_arguments.setdefault("use_safetensors", True)  # anything else may run code
        if pulled.manifest.kind == "initialised" and "quantization_config" not in model_arguments:
            model_arguments.setdefault("dtype", "float32")
        if spec.kind == "vision" and (labels := num_labels(pulled.folder / "adapter_model.safetensors")):
            model_arguments.setdefault("num_labels", labels)
            model_arguments.setdefault("ignore_mismatched_sizes", True)  # the base's own head may be another
        auto = {"language": "AutoModelForCausalLM", "vision": "AutoModelForImageClassification"}[spec.kind]
        model = call(
            f"load {base}",
            lambda: getattr(transformers, auto).from_pretrained(base, revision=spec.revision, **model_arguments),
            api=api,
        )
    return load_initialized(model, pulled.folder, trainable=trainable)


def _identity(model: "PreTrainedModel") -> tuple[str | None, str | None]:
    """Hub id and commit that a loaded model says it has; nothing for one that came from a local folder."""
    name = str(getattr(model.config, "_name_or_path", "") or "")
    if not name or Path(name).exists():
        return None, None
    return name, getattr(model.config, "_commit_hash", None)


def _checked_download(api: HfApi, repo_id: str, sha: str | None, name: str, digest: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix not in ALLOWED_SUFFIXES:
        raise HubError(f"{FILE_NAME} of {repo_id} lists {name!r}, which hubinit never publishes; do not use this repo.")
    for again in (False, True):  # a damaged copy in the cache is fetched once more
        local = call(
            f"download {one_line(name)} of {repo_id}",
            lambda again=again: api.hf_hub_download(repo_id, name, revision=sha, force_download=again),  # type: ignore[misc]
            api=api,
        )
        if sha256(Path(local)) == digest:
            return Path(local)
    raise HubError(
        f"{one_line(name)} of {repo_id} is not the file that its {FILE_NAME} describes: it was changed after hubinit "
        "published it; do not use it, or load it with peft directly if you trust the change."
    )


def _root(path: Path, name: str) -> Path:
    """The snapshot folder that holds the file `name` at `path`."""
    return path.parents[len(PurePosixPath(name).parts) - 1]


def _copy(folder: Path, out: Path, names: list[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, out / name)
