"""Judges: models that rate answers, behind an address or in this process. Every judgement is asked for once and kept."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hubinit.data.chat import chat_prompt
from hubinit.errors import HubinitError, first_line
from hubinit.models.base import load
from hubinit.models.names import pin, resolve
from hubinit.paths import home, write_atomically
from hubinit.scoring.chat_client import MAX_TOKENS, TEMPERATURE, Messages, Reply, ask_all, find_endpoint
from hubinit.scoring.generation import generate
from hubinit.specs import ModelSpec
from hubinit.tasks.spec import Decoding

URL = "HUBINIT_JUDGE_URL"  # where `--judge-url` is passed on to workers
LOCAL = "local:"  # a judge of this name is loaded into this process
BATCH = 4  # conversations that a local judge reads at a time
Keep = Callable[[int, Reply], None]


@dataclass(frozen=True)
class Judge:
    """A model that rates.

    Attributes:
        name: as in `--judge-model`.
        place: the address, or the revision of a local model. A judgement is of the place that gave it.
        ask: answers conversations and hands each answer on with its number as soon as it is there.
    """

    name: str
    place: str
    ask: Callable[[Sequence[Messages], Keep], None]


def find_judge(name: str | None) -> Judge:
    """The judge of this name.

    Raises:
        HubinitError: none is named, it has no address, or a local one cannot be found.
    """
    if not name:
        raise HubinitError(
            "A judge rates the answers: name a model with --judge-model, and where it is with --judge-url."
        )
    if name.startswith(LOCAL):
        spec = pin(resolve(name.removeprefix(LOCAL)))
        return Judge(name, str(spec.revision), partial(ask_local, spec))
    if not (url := os.environ.get(URL)):
        raise HubinitError(
            f"Where is the judge '{name}'? Give --judge-url, such as https://api.openai.com/v1, or name a model of your own "
            f"as {LOCAL}ORG/NAME or {LOCAL}FOLDER."
        )
    endpoint = find_endpoint(name, url)
    return Judge(name, endpoint.url, partial(ask_all, endpoint))


def judge_all(
    judge: Judge, conversations: Sequence[Messages], on_progress: Callable[[int], None] = lambda done: None
) -> list[Reply]:
    """The judgement of each conversation, from the cache where it is there.

    Args:
        judge: who.
        conversations: what the judge is told, each.
        on_progress: called with the number of judgements that are there.

    Raises:
        HubinitError: the judge fails; what it said before is kept.
    """
    keys = [key_of(judge, messages) for messages in conversations]
    found = {key: reply for key in dict.fromkeys(keys) if (reply := read_judgement(key)) is not None}
    missing = {key: messages for key, messages in zip(keys, conversations, strict=True) if key not in found}
    names = list(missing)
    on_progress(sum(key in found for key in keys))

    def keep(number: int, reply: Reply) -> None:
        write_judgement(names[number], reply)
        found[names[number]] = reply
        on_progress(sum(key in found for key in keys))

    if missing:
        judge.ask(list(missing.values()), keep)
    return [found[key] for key in keys]


def key_of(judge: Judge, messages: Messages) -> str:
    """The name of a judgement: who, where, how and what."""
    asked = [judge.name, judge.place, TEMPERATURE, MAX_TOKENS, [dict(message) for message in messages]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def path_of(key: str) -> Path:
    """Where a judgement is kept."""
    return home() / "judgements" / f"{key}.json"


def read_judgement(key: str) -> Reply | None:
    """A kept judgement; None where there is not one that can be read."""
    try:
        return Reply.model_validate_json(path_of(key).read_bytes())
    except (OSError, ValueError):
        return None


def write_judgement(key: str, reply: Reply) -> None:
    """Keeps a judgement.

    Raises:
        HubinitError: the disk is full, or the folder may not be written.
    """
    path = path_of(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, reply.model_dump_json())
    except OSError as error:
        raise HubinitError(
            f"A judgement cannot be kept in {path.parent} ({first_line(error)}); choose another folder with HUBINIT_HOME."
        ) from error


def ask_local(spec: ModelSpec, conversations: Sequence[Messages], keep: Keep) -> None:
    """Lets a model of this machine answer, greedily; it is in memory only meanwhile.

    Raises:
        HubinitError: it cannot be loaded, has no chat template, or its context is too short.
    """
    loaded = load(spec)
    prompts = [chat_prompt(messages, loaded.processor) for messages in conversations]
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        outputs = generate(loaded.model, loaded.processor, batch, Decoding(max_new_tokens=MAX_TOKENS), batch_size=BATCH)
        for number, (text,) in enumerate(outputs, start):
            keep(number, Reply(text=text, version=f"{spec.id}@{spec.revision}"))
