"""`hubinit pull REPO` and `hubinit.load`: getting a published adapter, checked against what it says about itself."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi

from hubinit.adapters import load_initialized
from hubinit.errors import HubError
from hubinit.hub.manifest import CARD, MAX_TEXT_BYTES, parse_manifest, read_manifest, refusal
from hubinit.hub.publication import num_labels
from hubinit.models.kinds import KINDS
from hubinit.paths import open_regular, sha256_of
from hubinit.records import ANCHOR, ITEMS, MANIFEST, Manifest, items_name
from hubinit.remote import call, read_file
from hubinit.text import one_line

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
    answers: bool = False,
) -> Pulled:
    """Downloads an adapter and checks the sha256 of every file; nothing that is not listed in its manifest is touched.

    Args:
        api: client; a token is needed for private repos only.
        repo_id: as from `hubinit find`.
        revision: commit, branch or tag of the adapter repo.
        base: the model it is meant for; refused when the adapter was made for another one.
        base_revision: the same for the model's commit.
        out: a folder to copy it to; default: it stays in the Hub's cache. Files of an earlier pull in it are renewed, files
            that hubinit did not put there are never touched. No link in it is followed.
        answers: whether the item records behind its scores come too, as far as they were published.

    Raises:
        HubError: not a hubinit repo, a file that is not what the manifest says, another base, a file or a link in the way,
            or the Hub refuses.
    """
    sha = call(f"find {repo_id}", lambda: api.repo_info(repo_id, revision=revision).sha, api=api)
    content = read_file(api, repo_id, MANIFEST, revision=sha)
    if content is None:
        raise HubError(f"{repo_id} has no {MANIFEST}, so it was not published by hubinit; load it with peft directly.")
    manifest = read_manifest(content, repo_id)
    check_base(manifest, repo_id, base, base_revision)
    if missing := {"adapter_config.json", "adapter_model.safetensors"} - manifest.files.keys():
        raise HubError(
            f"{MANIFEST} of {repo_id} does not list {' and '.join(sorted(missing))}, so it holds no adapter; "
            "ask its owner to publish it again."
        )
    wanted = manifest.files | (_published_items(api, repo_id, sha, manifest) if answers else {})
    paths = {name: _checked_download(api, repo_id, sha, name, digest) for name, digest in wanted.items()}
    card = read_file(api, repo_id, CARD, revision=sha)
    folder = _root(paths["adapter_config.json"], "adapter_config.json")
    if out is not None:
        texts = {CARD: card, MANIFEST: content}
        _renew(out, wanted, paths, {name: text for name, text in texts.items() if text is not None})
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
        if (labels := num_labels(spec, pulled.folder)) is not None:
            model_arguments.setdefault("num_labels", labels)
            model_arguments.setdefault("ignore_mismatched_sizes", True)  # the base's own head may be another
        auto = KINDS[spec.kind].auto_class
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
    for again in (False, True):  # a damaged copy in the cache is fetched once more
        local = Path(
            call(
                f"download {name} of {repo_id}",
                lambda again=again: api.hf_hub_download(repo_id, name, revision=sha, force_download=again),  # type: ignore[misc]
                api=api,
            )
        )
        repo = _root(local, name).parent.parent  # snapshots/COMMIT/NAME is a link to blobs/ beside it
        if not local.resolve().is_relative_to(repo.resolve()):
            raise HubError(f"{local} in the Hub's cache leads out of {repo}; delete that folder and run this again.")
        if local.is_file() and sha256_of(local) == digest:
            return local
    raise HubError(
        f"{name} of {repo_id} is not the file that its {MANIFEST} describes: it was changed after hubinit "
        "published it; do not use it, or load it with peft directly if you trust the change."
    )


def _published_items(api: HfApi, repo_id: str, sha: str | None, manifest: Manifest) -> dict[str, str]:
    """The item records that a repo holds, with their hashes."""
    published = set(call(f"list {repo_id}", lambda: api.list_repo_files(repo_id, revision=sha), api=api))
    return {name: digest for name, digest in _items(manifest).items() if name in published}


def _items(manifest: Manifest) -> dict[str, str]:
    """The item records behind the scores of an adapter, with their hashes; their names are made here, by no stranger."""
    return {f"{ITEMS}/{items_name(one.eval)}": one.items for one in manifest.result.scores if one.items is not None}


def _root(path: Path, name: str) -> Path:
    """The snapshot folder that holds the file `name` at `path`."""
    return path.parents[len(PurePosixPath(name).parts) - 1]


def _renew(out: Path, wanted: Mapping[str, str], paths: dict[str, Path], texts: dict[str, bytes]) -> None:
    """Makes `out` hold an adapter, and removes what only an earlier pull put there.

    A fresh folder is filled and moved into place: whole where `out` is not there yet, else file by file, the manifest last.

    Args:
        out: the user's folder.
        wanted: hash of each file but card and manifest.
        paths: where they lie in the cache.
        texts: card and manifest.

    Raises:
        HubError: a link or a file that hubinit did not write is in the way; nothing has been changed then.
    """
    _check_links(out)
    before = _described(out)
    if foreign := next(_in_the_way(out, wanted, before), None):
        raise HubError(
            f"{one_line(out / foreign)} is in the way: it is not a file that an earlier pull left there unchanged; "
            "move it away or choose another folder."
        )
    new = not out.exists()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=out.parent if new else out) as private:
        fresh = Path(private) / "fresh"
        for name in [*wanted, *texts]:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            if name in texts:
                (fresh / name).write_bytes(texts[name])
            else:
                _copy(paths[name], fresh / name, wanted[name])
        if new:
            fresh.rename(out)
            return
        for name in sorted(before.keys() - wanted.keys()):
            (out / name).unlink(missing_ok=True)
        if (out / ANCHOR).is_dir() and not any((out / ANCHOR).iterdir()):
            (out / ANCHOR).rmdir()
        for name in [*wanted, *texts]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).replace(out / name)


def _copy(source: Path, target: Path, digest: str) -> None:
    """Copies a file of the cache; what is written is what was checked."""
    shutil.copyfile(source, target)
    if sha256_of(target) != digest:
        raise HubError(f"{source} was changed while it was being copied; run the same command again.")


def _check_links(out: Path) -> None:
    """Checks that `out` is where its name says.

    Raises:
        HubError: it is a link, or lies behind one that somebody else made.
    """
    place = Path(os.path.abspath(out))  # noqa: PTH100  (resolve() would follow the links)
    for folder in (place, *place.parents):
        if folder.is_symlink() and (folder == place or folder.lstat().st_uid not in (0, os.geteuid())):
            raise HubError(
                f"{folder} is a link, which is not followed; give the folder that it leads to, or another one."
            )


def _described(out: Path) -> dict[str, str]:
    """The files that an earlier pull (or `hubinit init`) put into a folder, with their hashes; empty without a manifest."""
    try:
        with open_regular(out / MANIFEST) as file:
            manifest = parse_manifest(file.read(MAX_TEXT_BYTES + 1), str(out))
    except OSError:  # not there, or in the way
        return {}
    return {name: digest for name, digest in (manifest.files | _items(manifest)).items() if not refusal(name)}


def _in_the_way(out: Path, wanted: Mapping[str, str], before: dict[str, str]) -> Iterator[str]:
    """What is in `out` that is neither as an earlier pull left it nor as this one wants it; nothing is followed."""
    for name in sorted({*wanted, *before, CARD, MANIFEST, *_anchors(out)}):
        parts = PurePosixPath(name).parts
        on_the_way = (out.joinpath(*parts[:count]) for count in range(1, len(parts)))
        if any(folder.is_symlink() or (folder.exists() and not folder.is_dir()) for folder in on_the_way):
            yield name
            continue
        path = out / name
        if not os.path.lexists(path):
            continue
        if not stat.S_ISREG(path.lstat().st_mode):
            yield name
        elif name in (CARD, MANIFEST):  # renewed where there is a manifest
            if not (out / MANIFEST).exists():
                yield name
        elif sha256_of(path) not in {before.get(name), wanted.get(name)}:
            yield name


def _anchors(out: Path) -> Iterator[str]:
    """What lies where an anchor would; one that is not this adapter's would be loaded with it."""
    if (out / ANCHOR).is_symlink():
        yield ANCHOR
        return
    for root, folders, files in os.walk(out / ANCHOR):
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name).relative_to(out).as_posix() for name in (*files, *links))
