"""The Kronecker factors of K-FAC against an independent library (curvlinops)."""

from collections.abc import MutableMapping

import pytest
import torch
from torch import Tensor, nn

from hubinit.calibration import Statistic, calibrate
from hubinit.models.layers import target_layers
from tests import cases
from tests.calibration.test_calibrate import error_of

curvlinops = pytest.importorskip("curvlinops")


class Logits(nn.Module):
    """A transformers model as curvlinops wants it: dict in, logits of the predicted positions out."""

    def __init__(self, model: nn.Module, causal: bool) -> None:
        super().__init__()
        self.model, self.causal = model, causal

    def forward(self, inputs: MutableMapping[str, Tensor]) -> Tensor:
        logits = self.model(**inputs).logits
        return logits[:, :-1].reshape(-1, logits.shape[-1]) if self.causal else logits


@pytest.mark.parametrize("name", ["qwen2", "vit"])
@pytest.mark.filterwarnings("ignore")
def test_kronecker_factors(name: str) -> None:
    model = cases.build(name, dtype=torch.float64)
    data, pairs = [], []
    for batch in cases.batches(name, examples=4, dtype=torch.float64):
        if name == "qwen2":  # curvlinops knows neither padding nor masked labels
            ids = batch["input_ids"][:, :6]
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        data.append(batch)
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        labels = batch["labels"][:, 1:].reshape(-1) if name == "qwen2" else batch["labels"]
        pairs.append((inputs, labels))
    found = calibrate(model, data, statistics={Statistic.INPUT_MOMENT, Statistic.OUTPUT_MOMENT})
    layers = target_layers(model)
    kfac = curvlinops.KFACLinearOperator(
        Logits(model, causal=name == "qwen2"),
        nn.CrossEntropyLoss(reduction="sum"),
        [module.weight for module in layers.values()],
        pairs,
        fisher_type="empirical",
        kfac_approx="expand",
        check_deterministic=False,
        num_per_example_loss_terms=1 if name == "vit" else 5,
        batch_size_fn=lambda inputs: len(next(iter(inputs.values()))),
    )
    kfac.compute_kronecker_factors()
    for layer in layers:
        theirs = kfac._input_covariances["model." + layer], kfac._gradient_covariances["model." + layer]
        assert (
            error_of(found.layers[layer].sums[Statistic.INPUT_MOMENT] / found.layers[layer].tokens, theirs[0]) < 1e-10
        )
        assert error_of(found.layers[layer].sums[Statistic.OUTPUT_MOMENT], theirs[1]) < 1e-10
