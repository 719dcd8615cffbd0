"""`hubinit find`: adapters on the Hub that fit a model, a task, a method."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, ModelInfo

from hubinit.hub.cards import KIND_TAGS
from hubinit.records import AdapterKind
from hubinit.remote import call


@dataclass(frozen=True)
class FoundScore:
    """A score as the repo's card states it."""

    task: str
    metric: str
    value: float
    n: int | None
    stderr: float | None


@dataclass(frozen=True)
class Found:
    """An adapter repo. Everything here was written by its owner."""

    repo_id: str
    kind: str
    base_model: str
    method: str
    rank: int | None
    tasks: tuple[str, ...]
    scores: tuple[FoundScore, ...]
    private: bool
    updated: str | None


def find(
    api: HfApi,
    *,
    model: str | None = None,
    tasks: Sequence[str] = (),
    method: str | None = None,
    kind: AdapterKind | None = None,
    author: str | None = None,
    limit: int | None = 100,
) -> list[Found]:
    """Adapters published by hubinit, newest first.

    Args:
        api: client; private repos show up for those who may see them.
        model: Hub id of the base.
        tasks: the training data hold all of them.
        method: initialisation method.
        kind: `initialised` or `trained`.
        author: namespace.
        limit: at most this many repos are looked at.

    Raises:
        HubError: the Hub cannot be asked.
    """
    tags = ["hubinit", "lora"]
    tags += [f"base_model:adapter:{model}"] if model else []
    tags += [KIND_TAGS[kind]] if kind else []
    tags += [tag for tag in (*tasks, method) if tag]
    infos = call(
        "search the Hub",
        lambda: list(
            api.list_models(filter=tags, author=author, sort="last_modified", limit=limit, cardData=True, full=True)
        ),
        api=api,
    )
    found = (_read_card(info) for info in infos)
    wanted = {"base_model": model, "method": method, "kind": kind}
    return [
        one
        for one in found
        if one is not None
        and all(value is None or getattr(one, name) == value for name, value in wanted.items())
        and set(tasks) <= set(one.tasks)
    ]


def _read_card(info: ModelInfo) -> Found | None:
    """What a repo's card says, or None when it is not hubinit's; no field is taken on trust."""
    card = info.card_data.to_dict() if info.card_data else {}
    own = card.get("hubinit")
    if not isinstance(own, Mapping):
        return None
    tasks = own.get("tasks")
    base = card.get("base_model")
    return Found(
        repo_id=info.id,
        kind=str(own.get("kind")),
        base_model=base if isinstance(base, str) else "",
        method=str(own.get("method")),
        rank=own.get("rank") if isinstance(own.get("rank"), int) else None,
        tasks=tuple(map(str, tasks)) if isinstance(tasks, list) else (),
        scores=tuple(_scores(info)),
        private=bool(info.private),
        updated=info.last_modified.isoformat() if info.last_modified else None,
    )


def _scores(info: ModelInfo) -> Iterator[FoundScore]:
    for result in (info.card_data.eval_results if info.card_data else None) or []:
        value = _number(result.metric_value)
        if value is None:
            continue
        details: Mapping[str, Any] = result.metric_args if isinstance(result.metric_args, Mapping) else {}
        n = _number(details.get("n"))
        yield FoundScore(
            task=str(result.dataset_name),
            metric=str(result.metric_name or result.metric_type),
            value=value,
            n=int(n) if n is not None else None,
            stderr=_number(details.get("stderr")),
        )


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None
