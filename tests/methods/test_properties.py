"""What must hold for every method on every shape, and what makes FILet, LoRA-DA and EVA what they are."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hubinit.adapters.solving import redistribute
from hubinit.errors import InitialisationError
from hubinit.methods import METHODS, Factors, Layer, lora_da, parse_options
from hubinit.numerics.linalg import eigenpairs
from hubinit.numerics.statistics import LayerStatistics, Statistic
from tests.methods.layers import Case, case, statistics_of

PLAIN = sorted(name for name, method in METHODS.items() if method.factors)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PLAIN),
    ("filet", {"selection": "R"}),
    ("filet", {"selection": "P"}),
    ("filet", {"scaling": "svd"}),
    ("filet", {"scaling": "svd", "selection": "R"}),
    ("lora-da", {"preset": "paper"}),
    ("lora-da", {"beta": 0, "raw_gradient": True}),
    ("corda", {"mode": "kpm"}),
    ("eva", {"whiten": True}),
]

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).map(lambda s: (s[0], s[1], min(s)))


def run(name: str, layer: Layer, **options: Any) -> Factors:
    method = METHODS[name]
    assert method.factors is not None
    return method.factors(layer, parse_options(method, options))


def seeded(layer: Layer, **changes: Any) -> Layer:
    return dataclasses.replace(layer, generator=torch.Generator().manual_seed(5), **changes)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
@given(
    shape=shapes,
    tokens=st.sampled_from([1, 2, 30]),
    gradients=st.sampled_from([0.0, 1e-12, 0.1]),
    weight=st.sampled_from(["random", "identity", "zero", "low-rank"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_finite_factors_or_a_clear_error(
    name: str,
    options: dict[str, Any],
    shape: tuple[int, int, int],
    tokens: int,
    gradients: float,
    weight: str,
    dtype: torch.dtype,
) -> None:
    m, n, r = shape
    W = {
        "random": None,
        "identity": torch.eye(m, n),
        "zero": torch.zeros(m, n),
        "low-rank": torch.arange(1.0, m + 1)[:, None] * torch.arange(1.0, n + 1),
    }[weight]
    c = case(m, n, r, tokens=tokens, examples=1, weight=W, gradients=gradients, dtype=dtype)
    refusal = ""
    try:
        factors = run(name, c.layer, **options)
    except InitialisationError as error:
        refusal = str(error)
    if refusal:
        assert "odule layer" in refusal  # it names the module
        plain = tokens == 30 and gradients == 0.1 and weight == "random"
        assert not plain or "odd rank" in refusal or "2r" in refusal
        return
    assert tuple(factors.A.shape) == (r, n)
    assert tuple(factors.B.shape) == (m, r)
    assert factors.A.dtype == factors.B.dtype == dtype
    assert factors.A.isfinite().all()
    assert factors.B.isfinite().all()
    assert all(isinstance(value, float) and value == value for value in factors.report.values())


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_pure_repeatable_and_true_to_what_the_method_says(name: str, options: dict[str, Any]) -> None:
    c = case(10, 12, 4, dtype=torch.float32)
    before = c.layer.weight.clone()
    sums = {key: value.clone() for key, value in c.layer.statistics.sums.items()} if c.layer.statistics else {}
    first, second = run(name, seeded(c.layer), **options), run(name, seeded(c.layer), **options)
    assert torch.equal(first.A, second.A)
    assert torch.equal(first.B, second.B)
    assert torch.equal(c.layer.weight, before)
    assert c.layer.statistics is not None
    assert all(torch.equal(value, sums[key]) for key, value in c.layer.statistics.sums.items())
    method = METHODS[name]
    update = float((first.B @ first.A).norm())
    if method.start == "keep":
        assert method.anchored == (update > 1e-5)
    else:
        assert update > 0
    assert ("effective_rank" in first.report) == (update > 1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_random_draws_follow_the_generator(name: str) -> None:
    """Only the methods with random factors change with the seed."""
    c = case(10, 12, 4)
    first = run(name, seeded(c.layer))
    second = run(name, dataclasses.replace(c.layer, generator=torch.Generator().manual_seed(77)))
    same = torch.allclose(first.B @ first.A, second.B @ second.A) and torch.allclose(first.A, second.A)
    assert same == (name not in {"lora", "dora", "lora-dash", "orthogonal"})


@pytest.mark.parametrize("rank", [0, 7])
def test_rank_out_of_range_names_module_and_shape(rank: int) -> None:
    with pytest.raises(InitialisationError, match=rf"Rank {rank} does not fit module layer, whose weight is 6 × 9"):
        case(6, 9, rank)


def test_a_weight_or_calibration_that_is_broken_is_named() -> None:
    c = case(6, 9, 2)
    with pytest.raises(InitialisationError, match="weight of module layer holds NaN"):
        seeded(c.layer, weight=c.layer.weight.clone().index_fill_(0, torch.tensor([2]), float("nan")))
    assert c.layer.statistics is not None
    sums = dict(c.layer.statistics.sums)
    sums[Statistic.GRADIENT] = sums[Statistic.GRADIENT] * float("inf")
    with pytest.raises(InitialisationError, match="'gradient' of module layer holds NaN or infinity"):
        run("lora-one", seeded(c.layer, statistics=LayerStatistics(60, 4, sums)))
    other = case(9, 9, 2).layer.statistics
    with pytest.raises(InitialisationError, match="belongs to another model"):
        run("lora-one", seeded(c.layer, statistics=other))
    with pytest.raises(InitialisationError, match="has no calibration statistic"):
        run("filet", seeded(c.layer, statistics=None))


# FILet


@given(shape=shapes, seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_filet_takes_the_least_energy_of_any_choice(shape: tuple[int, int, int], seed: int) -> None:
    m, n, r = shape
    c = case(m, n, r, seed=seed)
    U, V = c.candidates()
    energies = ((V.T @ c.S_X) * V.T).sum(1) * ((U.T @ c.S_Y) * U.T).sum(1)  # (n,)
    least = min(float(energies[list(chosen)].sum()) for chosen in itertools.combinations(range(n), r))
    report = run("filet", c.layer).report
    assert report["energy_sum"] == pytest.approx(least, rel=1e-9)
    assert report["energy_min"] <= report["energy_max"] <= report["energy_sum"] * (1 + 1e-12)
    assert run("filet", seeded(c.layer), selection="P").report["energy_sum"] >= least * (1 - 1e-12)
    assert run("filet", seeded(c.layer), selection="R").report["energy_sum"] >= least * (1 - 1e-12)


def test_filet_selection_does_not_depend_on_the_loss_scale_or_the_reading() -> None:
    c = case(8, 10, 3)
    assert c.layer.statistics is not None
    reference = run("filet", c.layer)
    unit = reference.A / reference.A.norm(dim=1, keepdim=True)
    sums = {**c.layer.statistics.sums}
    sums[Statistic.FISHER_OUTPUT] = 1e4 * sums[Statistic.FISHER_OUTPUT]
    louder = run("filet", seeded(c.layer, statistics=LayerStatistics(60, 4, sums)))
    torch.testing.assert_close(louder.A, 100 * reference.A)
    for scale in ("feature", "example", "relative", 1e-3):
        A = run("filet", seeded(c.layer), energy_scale=scale).A
        torch.testing.assert_close(A / A.norm(dim=1, keepdim=True), unit)


def test_filet_with_repeated_energies_takes_the_first_and_skips_zero_columns() -> None:
    """Orthonormal columns and white tokens: every candidate has the same energy; column 1 of W is zero."""
    W = torch.eye(5, dtype=torch.float64)
    W[:, 1] = 0
    X, Y = torch.eye(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    stats = statistics_of(W, X, Y, Y, 1)
    layer = Layer("layer", W, 3, 1.0, torch.Generator().manual_seed(0), stats)
    factors = run("filet", layer)
    chosen = factors.A.abs().argmax(dim=1).tolist()
    assert chosen == [0, 2, 3]
    with pytest.raises(InitialisationError, match="layer has 4 candidate directions, fewer than the rank 5"):
        run("filet", seeded(layer, rank=5))


def test_filet_without_gradients_says_that_it_could_never_train() -> None:
    with pytest.raises(InitialisationError, match="All Fisher energies chosen for module layer are zero"):
        run("filet", case(6, 6, 2, gradients=0).layer)


# LoRA-DA


def omega(c: Case, **options: Any) -> tuple[Tensor, Tensor]:
    """The guidance matrix Ω/σ_1(Δ)² (n, n), formed, and the Δ (m, n) that B projects."""
    parsed: Any = parse_options(METHODS["lora-da"], options)
    guidance, _ = lora_da._guidance(seeded(c.layer), parsed, lora_da.resolve(parsed))
    return guidance.dense(), guidance.delta * (1 if parsed.preset == "official" else guidance.scale)


@pytest.mark.parametrize("preset", ["official", "paper"])
@pytest.mark.parametrize(("m", "n"), [(7, 12), (12, 7)])
def test_lora_da_minimises_the_trace(preset: str, m: int, n: int) -> None:
    c = case(m, n, 3)
    factors = run("lora-da", c.layer, preset=preset, gamma=1)
    matrix, delta = omega(c, preset=preset)
    trace = float(torch.trace(factors.A @ matrix @ factors.A.T))
    torch.testing.assert_close(factors.A @ factors.A.T, torch.eye(3, dtype=torch.float64))
    assert trace == pytest.approx(float(torch.linalg.eigvalsh(matrix)[:3].sum()), rel=1e-8)
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        Q = torch.linalg.qr(torch.randn(n, 3, generator=g, dtype=torch.float64))[0]
        assert float(torch.trace(Q.T @ matrix @ Q)) >= trace - 1e-9 * abs(trace)
    projected = factors.B @ factors.A * (2.0 if preset == "paper" else 1.0)  # s·BA in the paper, BA in the code
    torch.testing.assert_close(projected, delta @ factors.A.T @ factors.A)


@pytest.mark.parametrize("preset", ["official", "paper"])
def test_lora_da_without_variance_and_with_raw_gradients_is_lora_one(preset: str) -> None:
    """Remark 4.3."""
    c = case(12, 10, 4)
    da = run("lora-da", c.layer, preset=preset, beta=0, raw_gradient=True)
    one = run("lora-one", seeded(c.layer))

    def projector(A: Tensor) -> Tensor:
        return A.T @ torch.linalg.inv(A @ A.T) @ A  # (n, n)

    torch.testing.assert_close(projector(da.A), projector(one.A), atol=1e-8, rtol=0)
    torch.testing.assert_close(projector(da.B.T), projector(one.B.T), atol=1e-8, rtol=0)


def test_lora_da_damping_is_raised_and_reported() -> None:
    c = case(6, 8, 2)
    assert c.layer.statistics is not None
    sums = {**c.layer.statistics.sums}
    broken = sums[Statistic.INPUT_MOMENT] - 60 * torch.eye(8, dtype=torch.float64)  # rounding can do this
    report = run(
        "lora-da", seeded(c.layer, statistics=LayerStatistics(60, 4, {**sums, Statistic.INPUT_MOMENT: broken}))
    )
    assert report.report["damping_raised"] > 0
    assert report.report["damping_input"] > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{}, {"preset": "paper"}, {"population_size": 10}, {"beta": 0}], ids=str)
def test_lora_da_iterates_on_the_operator(
    options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOBPCG on the unformed Ω (n = 150), within its ten iterations or a fallback, finds what eigh finds."""
    monkeypatch.setattr(lora_da, "eigenpairs", lambda *args, **kw: eigenpairs(*args, **{"small": 100, **kw}))
    c = case(90, 150, 6, tokens=400, dtype=dtype)
    factors = run("lora-da", seeded(c.layer), gamma=1, **options)
    matrix, _ = omega(c, **options)
    A, matrix = factors.A.double(), matrix.double()
    values = torch.linalg.eigvalsh(matrix)
    trace, best = float(torch.trace(A @ matrix @ A.T)), float(values[:6].sum())
    assert trace - best <= 1e-3 * float(values[:6].abs().sum())
    if dtype == torch.float32:
        assert factors.report["full_solve"] == 0  # float64 asks for 1e-8, which ten iterations need not reach


def test_lora_da_unconverged_iterations_fall_back_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_da, "eigenpairs", lambda *args, **kw: eigenpairs(*args, **{"small": 100, **kw}))
    c = case(90, 150, 6, tokens=400)
    factors = run("lora-da", seeded(c.layer), gamma=1, lobpcg_iters=1)
    assert factors.report["full_solve"] == 1
    matrix, _ = omega(c)
    trace = float(torch.trace(factors.A @ matrix @ factors.A.T))
    assert trace == pytest.approx(float(torch.linalg.eigvalsh(matrix)[:6].sum()), rel=1e-9)


def test_lora_da_without_gradients_starts_at_the_base() -> None:
    factors = run("lora-da", case(6, 8, 2, gradients=0).layer)
    assert not factors.B.any()
    assert torch.linalg.matrix_rank(factors.A) == 2


# Component methods


@pytest.mark.parametrize("name", ["pissa", "milora", "corda"])
@pytest.mark.parametrize("scaling", [0.5, 1.0, 4.0])
def test_the_trained_component_does_not_depend_on_the_scaling(name: str, scaling: float) -> None:
    c = case(9, 8, 3)
    one, other = run(name, seeded(c.layer, scaling=1.0)), run(name, seeded(c.layer, scaling=scaling))
    torch.testing.assert_close(scaling * other.B @ other.A, one.B @ one.A)


def test_pissa_and_milora_share_the_spectrum() -> None:
    c = case(9, 8, 4)
    top, minor = run("pissa", c.layer), run("milora", seeded(c.layer))
    torch.testing.assert_close(2 * (top.B @ top.A + minor.B @ minor.A), c.W)
    assert top.report["spectrum_share"] + minor.report["spectrum_share"] == pytest.approx(1)


def test_lora_ga_needs_twice_the_rank() -> None:
    with pytest.raises(
        InitialisationError, match=r"rank 4 does not fit module layer, whose weight is 6 × 9.*at most 3"
    ):
        run("lora-ga", case(6, 9, 4).layer)


# EVA's ranks


def layers_of_variance(*variances: list[float], rank: int = 2, shared: bool = False) -> list[Layer]:
    """Layers (6, n) whose centred inputs have the given variances along the axes."""
    layers: list[Layer] = []
    for index, values in enumerate(variances):
        n = len(values)
        X = torch.cat([torch.eye(n), -torch.eye(n)]).double() * torch.tensor(values, dtype=torch.float64).sqrt()
        W = torch.ones(6, n, dtype=torch.float64)
        stats = statistics_of(W, X, torch.zeros(2 * n, 6).double(), torch.zeros(2 * n, 6).double(), 1)
        if shared and layers:
            stats = layers[0].statistics  # type: ignore[assignment]
        common = layers[0].shared if shared and layers else {}
        layers.append(Layer(f"m{index}", W, rank, 1.0, torch.Generator().manual_seed(index), stats, common))
    return layers


def eva_ranks(layers: list[Layer], rho: float) -> dict[str, int]:
    method = METHODS["eva"]
    assert method.scores is not None
    options = parse_options(method, {"rho": rho})
    return redistribute({layer.name: method.scores(layer, options) for layer in layers}, layers[0].rank)


def test_eva_gives_ranks_to_the_layers_whose_variance_is_concentrated() -> None:
    # ratios: m0 .25 each; m1 .4 .3 .2 .1
    layers = layers_of_variance([1, 1, 1, 1], [4, 3, 2, 1])
    assert eva_ranks(layers, 2) == {"m0": 2, "m1": 2}  # .4 .3 .25 .25
    layers = layers_of_variance([100, 0.1, 0.1, 0.1], [4, 3, 2.5, 0.5])
    assert eva_ranks(layers, 2) == {"m0": 1, "m1": 3}
    assert eva_ranks(layers, 1) == {"m0": 2, "m1": 2}


def test_eva_ranks_keep_the_total_obey_rho_and_break_ties_by_order() -> None:
    layers = layers_of_variance([1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], rank=2)
    assert eva_ranks(layers, 2) == {"m0": 4, "m1": 2, "m2": 0}  # all ratios equal
    assert eva_ranks(layers, 1.5) == {"m0": 3, "m1": 3, "m2": 0}
    shared = layers_of_variance([3, 2, 1, 1], [9, 9, 9, 9], shared=True)
    assert eva_ranks(shared, 2) == {"m0": 2, "m1": 2}  # one covariance, solved once


def test_eva_ranks_then_factors() -> None:
    layers = layers_of_variance([100, 0.1, 0.1, 0.1], [4, 3, 2.5, 0.5])
    ranks = eva_ranks(layers, 2)
    factors = run("eva", seeded(layers[1], rank=ranks["m1"]))
    torch.testing.assert_close(factors.A.abs(), torch.eye(4, dtype=torch.float64)[:3])
    assert factors.report["explained_variance"] == pytest.approx(0.95)


def test_eva_without_variation_has_no_directions() -> None:
    with pytest.raises(InitialisationError, match="inputs of module layer do not vary"):
        run("eva", case(5, 5, 2, tokens=1, examples=1).layer)
