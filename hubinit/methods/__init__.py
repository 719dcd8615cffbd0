"""Every initialisation method by name. To add one: a file in this folder, one import and one row here, one parity-test row."""

from typing import Any

from pydantic import ValidationError

from hubinit.errors import HubinitError, nearest
from hubinit.methods import (
    corda,
    dora,
    eva,
    filet,
    kasa,
    lora,
    lora_da,
    lora_dash,
    lora_ga,
    lora_one,
    mica,
    milora,
    neat,
    olora,
    orthogonal,
    peft_types,
    pissa,
)
from hubinit.methods.spec import Factors, Layer, Method, MethodOptions

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        lora.METHOD,
        dora.METHOD,
        lora_dash.METHOD,
        pissa.METHOD,
        milora.METHOD,
        mica.METHOD,
        olora.METHOD,
        orthogonal.METHOD,
        filet.METHOD,
        lora_da.METHOD,
        lora_ga.METHOD,
        lora_one.METHOD,
        eva.METHOD,
        corda.METHOD,
        kasa.METHOD,
        neat.METHOD,
    )
}


def get(name: str) -> Method:
    """The method of that name.

    Args:
        name: a key of METHODS, or `peft:<type>` for any other PEFT method by its config.

    Raises:
        HubinitError: unknown name; the message has the nearest known ones.
    """
    if name in METHODS:
        return METHODS[name]
    if name.startswith("peft:"):
        return peft_types.build(name)
    raise HubinitError(f"Unknown method '{name}': {nearest(name, [*METHODS, 'peft:<type>'])}")


def parse_options(method: Method, options: dict[str, Any]) -> MethodOptions:
    """The validated options of a method, defaults filled in.

    Args:
        method: the method.
        options: by name, values as in Python, YAML or `--set` (numbers may be strings).

    Raises:
        HubinitError: an unknown option (with the nearest names), or a value it does not take.
    """
    known = list(method.options.model_fields)
    if "train_a" in options:
        raise HubinitError(
            "What stays frozen belongs to training, so 'train_a' is not an option of a method: "
            "leave it out, and train with --optimizers frozen-a."
        )
    for name in options:
        if name not in known:
            raise HubinitError(f"Method '{method.name}' has no option '{name}': {nearest(name, known)}")
    try:
        return method.options(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else "options"
        reasons = [other["msg"] for other in error.errors() if other["loc"][:1] == first["loc"][:1]]
        raise HubinitError(
            f"Option '{where}' of method '{method.name}' cannot be {first['input']!r}: {'; or '.join(reasons)}."
        ) from None


__all__ = ["METHODS", "Factors", "Layer", "Method", "MethodOptions", "get", "parse_options"]
