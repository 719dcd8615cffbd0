"""Protocols: named recipes for many runs, shipped as YAML or the user's own, with `key=value` overrides.

A file of the user's may say a whole sweep: its `models`, `methods` and `tasks` as lists, and in `extends` another protocol, by
name or by path, of which it says only what is different.
"""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hubinit.errors import HubinitError, nearest
from hubinit.specs import Protocol
from hubinit.yamlsafe import load_untrusted_yaml

DEFAULT = "default"
EXTENDS = "extends"  # in a file: the protocol below it
FOLDER = files("hubinit") / "registry" / "protocols"


def protocol_names() -> list[str]:
    """The protocols that hubinit ships."""
    return sorted(Path(entry.name).stem for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))


def read_protocol(name: str = DEFAULT, overrides: Sequence[str] = ()) -> Protocol:
    """Reads a protocol by name, or a YAML file by path, and applies `key=value` overrides.

    A key is a field (`limit=100`), a dotted field (`recipe.steps=40`) or a method's option (`lora-da.preset=paper`). A field that
    is set for all methods is set for those too for which the protocol says something else.

    Raises:
        HubinitError: unknown protocol or key, or a value that does not fit.
    """
    values = _read_yaml(name)
    for override in overrides:
        apply_override(values, override)
    protocol = check_protocol(values, f"protocol '{name}'")
    keys = [override.partition("=")[0].strip() for override in overrides]
    return protocol.for_all(key.removeprefix("recipe.") for key in keys)


def check_protocol(values: dict[str, Any], whose: str) -> Protocol:
    """The protocol that the values make.

    Raises:
        HubinitError: an unknown setting, or a value that does not fit.
    """
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        setting = f"Setting '{where}' of {whose}" if where else f"A setting of {whose}"
        message = first["msg"].removeprefix("Value error, ")
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), _fields_at(first["loc"][:-1]))
        raise HubinitError(f"{setting} is wrong: {message}. {hint}".strip()) from error


def _read_yaml(name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a protocol says, with what it takes from those that it extends; `below`: the files that extend it."""
    if name in protocol_names():
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in {".yaml", ".yml"} and Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise HubinitError(f"Protocol '{name}' is not UTF-8 text; save it as UTF-8.") from error
    else:
        raise HubinitError(f"There is not a protocol or YAML file '{name}': {nearest(name, protocol_names())}")
    try:
        values = load_untrusted_yaml(text) or {}
    except ValueError as error:
        raise HubinitError(f"Protocol '{name}' cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise HubinitError(f"Protocol '{name}' is not a mapping; write lines such as 'rank: 16'.")
    if isinstance(values.get("methods"), list):
        values["compare"] = values.pop("methods")
    if isinstance(values.get("tasks"), list):
        values["tasks"] = {str(task): [] for task in values["tasks"]}
    if EXTENDS not in values:
        return values
    parent = values.pop(EXTENDS)
    if not isinstance(parent, str):
        raise HubinitError(f"Protocol '{name}' extends {parent!r}; name one protocol or YAML file.")
    if Path(parent).suffix in {".yaml", ".yml"}:
        parent = str(Path(name).parent / parent)
    if parent in (*below, name):
        raise HubinitError(f"Protocol '{name}' extends itself, through {' and '.join((*below, name))}; remove one.")
    return inherit(_read_yaml(parent, (*below, name)), values, parent)


def inherit(parent: dict[str, Any], own: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a protocol that extends another one.

    Mappings are merged key by key, but for `tasks`; everything else replaces what was there. What is set for all methods holds
    for those too for which the parent says something else.

    Args:
        parent: what it extends.
        own: what it says itself.
        name: of the parent.
    """
    general = {*own, *(own["recipe"] if isinstance(own.get("recipe"), dict) else ())}
    parents = parent.get("per_method") or {}
    kept = {
        method: {field: value for field, value in settings.items() if field not in general}
        for method, settings in parents.items()
    }
    source = {"description": f"extends {name}", "source": f"{name}, with changes"}
    return _merge(parent | source | ({"per_method": kept} if kept else {}), own)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict) and key != "tasks"
        merged[key] = _merge(below[key], value) if both else value
    return merged


def file_schema() -> dict[str, Any]:
    """The JSON schema of a protocol's file, for editors."""
    schema = Protocol.model_json_schema()
    own = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hubinit protocol or sweep",
        "description": "What `hubinit bench --config FILE` runs; `hubinit protocols NAME` shows one with all its settings.",
    }
    properties = schema["properties"]
    names: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
    for listed in ("methods", "tasks"):
        properties[listed] = {"anyOf": [names, properties[listed]], "title": listed.title()}
    extends = {
        "type": "string",
        "title": "Extends",
        "description": "a protocol, or a YAML file beside this one, whose settings hold where this file does not say another",
        "examples": protocol_names(),
    }
    return schema | own | {"properties": {EXTENDS: extends, **properties}}


def _fields_at(path: Sequence[int | str]) -> list[str]:
    """The fields of the part of a protocol that `path` leads to, so that a hint names neighbours of the unknown one."""
    model: type[BaseModel] = Protocol
    for part in map(str, path):
        if part in model.model_fields:  # else a name of the user's: a method, a data set
            model = next((m for m in _models(model.model_fields[part].annotation)), model)
    return [*model.model_fields, *([] if path else [EXTENDS])]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that an annotation may mean."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Applies one `key=value` (the value is YAML) to the nested mapping."""
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise HubinitError(f"--set wants key=value, for example recipe.steps=40, not '{override}'.")
    if len(path) > 1 and path[0] not in Protocol.model_fields:
        path = ["methods", *path]  # a method's option: lora-da.preset=paper
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise HubinitError(f"--set {override}: '{part}' is a single value and has no fields.")
    try:
        value = load_untrusted_yaml(text)
    except ValueError as error:
        raise HubinitError(f"--set {override[:200]} cannot be read: {error}.") from error
    values[path[-1]] = parse_number(value) if isinstance(value, str) else value


def parse_number(text: str) -> float | str:
    """YAML reads `1e-3` as text; this reads it as the number it is."""
    try:
        return float(text)
    except ValueError:
        return text
