"""LoRA-Dash: starts as LoRA; after a warm-up, task-specific directions of ΔW are trained too (Si et al., arXiv:2409.01035).

Only the start is here. The directions depend on the warmed-up adapter, belong to training and are still missing, so a run is
plain LoRA: `--methods all` leaves the method out.
"""

from hubinit.methods import lora
from hubinit.methods.spec import Method

METHOD = Method(
    name="lora-dash",
    title="LoRA-Dash",
    source="Unleashing the Power of Task-Specific Directions in Parameter Efficient Fine-tuning, arXiv:2409.01035",
    start="keep",
    factors=lora.factors,
    complete=False,
)
