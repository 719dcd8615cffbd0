"""The shapes of a model without its weights: from `config.json` alone, so that a mistake is found before a download."""

from functools import cache
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi
from torch import nn

from hubinit.errors import HubError, first_line
from hubinit.models.base import quiet
from hubinit.models.kinds import KINDS
from hubinit.models.names import known_config
from hubinit.remote import HUB_ERRORS, call, explain
from hubinit.specs import ModelSpec

# transformers has no configuration of this name, or cannot make a model of it.
UNUSABLE = (ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError)


@cache
def empty_model(spec: ModelSpec) -> nn.Module:
    """The model on the meta device: every module with its name and shape, and no memory for its weights.

    The head of a labelled kind has the classes that the configuration names, not those of a task.

    Raises:
        HubError: no such repo, no access, or a configuration that transformers cannot make a model of.
    """
    try:
        return build(spec, read_config(spec))
    except UNUSABLE as error:
        raise HubError(f"{spec.id} cannot be loaded as {KINDS[spec.kind].noun}: {first_line(error)}.") from error


@cache
def outline(spec: ModelSpec) -> tuple[nn.Module, str | None]:
    """As `empty_model`; of a registered model also where its configuration cannot be had, by what `models.yaml` knows.

    A model without a revision is one that no Hub was found for: it is not asked for again.

    Returns:
        The model, and why its own configuration was not read (None: it was).

    Raises:
        HubError: as `empty_model`, of a model that is not registered.
    """
    known = known_config(spec.id)
    if known is None:
        return empty_model(spec), None
    reason = "no Hub was asked"
    if spec.revision is not None:
        try:
            return empty_model(spec), None
        except HubError as error:
            reason = str(error)
    return build(spec, transformers.AutoConfig.for_model(**known)), reason


def read_config(spec: ModelSpec) -> Any:
    """The configuration of a model, from the Hub, the cache or its folder.

    Raises:
        HubError: it cannot be had.
    """
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    action = f"read the configuration of {spec.id}"
    try:
        with quiet():
            return call(action, lambda: transformers.AutoConfig.from_pretrained(spec.id, **options), api=HfApi())
    except HUB_ERRORS as error:
        raise explain(error, action, HfApi()) from error


def build(spec: ModelSpec, config: Any) -> nn.Module:
    """The model of a configuration, on the meta device, in the type that the specification names."""
    auto_class = getattr(transformers, KINDS[spec.kind].auto_class)
    with quiet(), torch.device("meta"):
        model: nn.Module = auto_class.from_config(config, trust_remote_code=spec.trust_remote_code)
    if spec.dtype != "auto":
        model.to(getattr(torch, spec.dtype))
    return model
