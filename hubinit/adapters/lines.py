"""The lines of plain PEFT that rebuild a start point on its base: the cards print them, and the gate runs them."""

import json
from collections.abc import Sequence

from peft import PeftModel
from torch import nn

UNTIE = (
    "head = base.get_output_embeddings()  # the anchor must not change the embedding that shares this weight",
    "head.weight = type(head.weight)(head.weight.detach().clone())",
    "base.config.tie_word_embeddings = False",
)


def start_lines(source: str, *, anchored: bool, tied: bool, frozen: Sequence[str]) -> list[str]:
    """Python that makes `model` from `base`, the untouched base in float32.

    Args:
        source: folder or Hub repo of the start point.
        anchored: it has an anchor.
        tied: the anchor reaches a head that is tied to the embedding.
        frozen: parameters that are never trained, such as `lora_A`.
    """
    where = json.dumps(source, ensure_ascii=False)  # JSON would write 🙂 as two half characters
    lines: list[str] = []
    if anchored and tied:
        lines += UNTIE
    if anchored:
        lines.append(f'base = PeftModel.from_pretrained(base, {where}, subfolder="anchor").merge_and_unload()')
    lines.append(f"model = PeftModel.from_pretrained(base, {where}, is_trainable=True)")
    for parameter in frozen:
        lines += [
            "for name, parameter in model.named_parameters():  # PEFT does not store what is frozen",
            f'    if ".{parameter}." in name:',
            "        parameter.requires_grad_(False)",
        ]
    return lines


def run_lines(lines: Sequence[str], base: nn.Module) -> PeftModel:
    """Runs what `start_lines` gave, exactly as printed."""
    names = {"PeftModel": PeftModel, "base": base}
    exec("\n".join(lines), names)  # noqa: S102  (our own text; the only foreign part is a quoted name)
    model = names["model"]
    assert isinstance(model, PeftModel)
    return model
