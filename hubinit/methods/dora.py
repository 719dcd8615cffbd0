"""DoRA: LoRA's factors, with the weight's column norms trained apart (Liu et al., arXiv:2402.09353)."""

from hubinit.methods import lora
from hubinit.methods.spec import Method

METHOD = Method(
    name="dora",
    title="DoRA",
    source="DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353",
    start="keep",
    factors=lora.factors,
    lora_kwargs={"use_dora": True},
)
