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
from hubinit.remote import HUB_ERRORS, call, explain
from hubinit.specs import ModelSpec


@cache
def empty_model(spec: ModelSpec) -> nn.Module:
    """The model on the meta device: every module with its name and shape, and no memory for its weights.

    The head of a labelled kind has the classes that the configuration names, not those of a task.

    Raises:
        HubError: no such repo, no access, or a configuration that transformers cannot make a model of.
    """
    kind = KINDS[spec.kind]
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    try:
        with quiet(), torch.device("meta"):
            config = call(
                f"read the configuration of {spec.id}",
                lambda: transformers.AutoConfig.from_pretrained(spec.id, **options),
                api=HfApi(),
            )
            model: nn.Module = getattr(transformers, kind.auto_class).from_config(
                config, trust_remote_code=spec.trust_remote_code
            )
    except HUB_ERRORS as error:
        raise explain(error, f"read the configuration of {spec.id}", HfApi()) from error
    except (ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError) as error:
        raise HubError(f"{spec.id} cannot be loaded as {kind.noun}: {first_line(error)}.") from error
    return model
