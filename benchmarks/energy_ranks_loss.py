"""Does the Fisher energy of a direction say how much the loss rises along it? Measured on a real model.

FILet picks directions by the K-FAC energy `(v̂ᵀ S_X v̂)(ûᵀ S_Y û)` (arXiv:2605.01046, eq. 14), claimed to rank the symmetric loss
increase `½[L(W + γZ) + L(W − γZ)] − L(W)`, `Z = û v̂ᵀ` (eq. 5). This script takes candidates spread over the whole range of
energies of a few layers of SmolLM2-135M, measures the increase on the calibration text itself, and prints the rank correlation.

    python benchmarks/energy_ranks_loss.py --record
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from hubinit.calibration import Statistic, calibrate
from hubinit.models.layers import target_layers, weight_of

STEP = 0.1  # ‖γZ‖ / ‖W‖ of the perturbation
MODULES = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def real_model(folder: Path) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer, made from the package that carries it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hubinit.devhub.seed import seed
    from hubinit.devhub.store import Store

    store = Store(folder / "hub")
    (made,) = seed(store, ["smollm2-135m"], echo=lambda line: None)
    target = folder / "model"
    target.mkdir()
    for name in store.tree_of(made.sha):
        (target / name).write_bytes(store.read(made.repo_type, made.repo_id, name))
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(target)


def text_batch(tokenizer: Any, examples: int, length: int) -> dict[str, Tensor]:
    """Real prose that every Python installation carries: its own language reference."""
    from pydoc_data.topics import topics

    ids = tokenizer("\n".join(topics[name] for name in sorted(topics)))["input_ids"][1000 : 1000 + examples * length]
    tokens = torch.tensor(ids).reshape(examples, length)  # (E, T)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens.clone()}


@torch.inference_mode()
def loss(model: Any, batch: dict[str, Tensor]) -> float:
    """Mean negative log-likelihood per token, in float64."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]  # (E, T-1, V)
    labels = batch["input_ids"][:, 1:]  # (E, T-1)
    return float(cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").double().mean())


def increases(model: Any, batch: dict[str, Tensor], name: str, directions: int) -> pd.DataFrame:
    """Energy and measured symmetric loss increase of candidates spread over the decades of one layer's energies."""
    module = target_layers(model)[name]
    sums = {Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT}
    layer = calibrate(model, [batch], statistics=sums, target_modules=[name]).layers[name]
    x, y = (
        layer.sums[kind] / layer.tokens_of(kind) for kind in (Statistic.FISHER_INPUT, Statistic.FISHER_OUTPUT)
    )  # (n,)
    energies = x * y  # (n,)
    spread = torch.logspace(float(energies.min().log10()), float(energies.max().log10()), directions)  # (directions,)
    chosen = (energies.log10()[:, None] - spread.log10()).abs().argmin(0).unique()  # (≤ directions,)
    W = weight_of(module, name)  # (m, n)
    V = normalize(W.T @ W[:, chosen], dim=0)  # (n, directions)
    U = normalize(W @ V, dim=0)  # (m, directions)
    original, start, rows = module.weight.data.clone(), loss(model, batch), []
    for index, u, v in zip(chosen, U.T, V.T, strict=True):
        change = STEP * W.norm() * torch.outer(u, v)  # (m, n) γZ
        risen = []
        for sign in (1, -1):
            module.weight.data = original + sign * change
            risen.append(loss(model, batch))
        module.weight.data = original
        rows.append({"energy": float(energies[index]), "increase": sum(risen) / 2 - start})
    return pd.DataFrame(rows)


def rank_correlation(table: pd.DataFrame) -> float:
    """Spearman's ρ between energy and loss increase."""
    return float(table["energy"].rank().corr(table["increase"].rank()))


def main() -> None:
    """Measures every kind of layer at three depths and prints the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directions", type=int, default=16)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/energy_ranks_loss.json")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        model, tokenizer = real_model(Path(folder))
        batch = text_batch(tokenizer, examples=4, length=128)
        found = {}
        for name in target_layers(model):
            if name.endswith(MODULES) and name.split(".")[2] in {"4", "14", "25"}:
                found[name] = rank_correlation(increases(model, batch, name, arguments.directions))
                print(f"{name:40s} {found[name]:+.3f}", flush=True)
    print(f"median {pd.Series(found).median():+.3f}")
    if arguments.record:
        from hubinit.runs.costs import provenance

        facts = provenance("python benchmarks/energy_ranks_loss.py --record").model_dump()
        path = Path(__file__).parent / "results" / "energy_ranks_loss.json"
        path.write_text(json.dumps({"spearman": found, "directions": arguments.directions, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
