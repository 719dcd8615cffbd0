"""Protocols: named recipes for many runs, shipped as YAML or the user's own, with `key=value` overrides."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hubinit.errors import HubinitError, nearest
from hubinit.specs import Protocol
from hubinit.yamlsafe import load_untrusted_yaml

DEFAULT = "default"
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


def _read_yaml(name: str) -> dict[str, Any]:
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
    return values


def _fields_at(path: Sequence[int | str]) -> list[str]:
    """The fields of the part of a protocol that `path` leads to, so that a hint names neighbours of the unknown one."""
    model: type[BaseModel] = Protocol
    for part in map(str, path):
        if part in model.model_fields:  # else a name of the user's: a method, a data set
            model = next((m for m in _models(model.model_fields[part].annotation)), model)
    return list(model.model_fields)


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
