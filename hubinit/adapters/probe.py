"""The linear probe: a classifier whose head alone is trained, in PEFT's format, so that it is saved and loaded like adapters."""

import time

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from hubinit.adapters.anchor import ADAPTER
from hubinit.adapters.base import remember_trainable
from hubinit.adapters.configs import base_revision, classification_heads
from hubinit.adapters.report import InitReport, adapter_checksum
from hubinit.errors import InitialisationError


def attach_head(model: nn.Module, *, seed: int = 0) -> PeftModel:
    """Makes the head of a classifier, and nothing else, trainable; `detach` gives the model back.

    Args:
        model: the untouched base, wrapped in place.
        seed: that its head was drawn with, for the report.

    Returns:
        A PeftModel without an adapted layer, with an `InitReport` at `.hubinit_report`.

    Raises:
        InitialisationError: the model has no classification head.
    """
    started = time.perf_counter()
    heads = classification_heads(model)
    if not heads:
        raise InitialisationError(f"{type(model).__name__} has no classification head that could be trained alone.")
    training = model.training
    remember_trainable(model)
    # PEFT's name for "no module at all", which its LoRA type alone takes; the rank is not used.
    config = LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES, modules_to_save=heads, revision=base_revision(model))
    peft_model = get_peft_model(model, config, adapter_name=ADAPTER)
    peft_model.train(training)
    peft_model.hubinit_report = InitReport(
        method="none",
        options={},
        start="keep",
        rank=0,
        alpha=0,
        rslora=False,
        seed=seed,
        anchor="none",
        trainable_parameters=sum(p.numel() for p in peft_model.parameters() if p.requires_grad),
        seconds=time.perf_counter() - started,
        checksum=adapter_checksum(peft_model),
    )
    return peft_model
