"""From what a search knows to what it decided, as it is stored."""

from collections.abc import Sequence

from hubinit.runs.board import Board
from hubinit.runs.decisions import Decisions, FinalRun, MethodDecisions, TriedRate
from hubinit.runs.fair import ladder, tuned_rate
from hubinit.specs import DEFAULT_OPTIMISER, RunSpec


def report_decisions(board: Board) -> Decisions:
    """What is decided so far."""
    spec, protocol = board.templates[0].spec, board.protocol
    parameters = [board.parameters(who) for who in range(len(board.templates))]
    plain = [
        count
        for one, count in zip(board.templates, parameters, strict=True)
        if one.spec.method.name == "lora" and optimiser_of(one.spec) == DEFAULT_OPTIMISER and count
    ]
    return Decisions(
        model=spec.model.id,
        revision=spec.model.revision,
        dtype=spec.model.dtype,
        group=board.templates[0].group,
        rank=protocol.rank,
        grid=tuple(sorted(protocol.learning_rates)),
        default_rate=board.search.default_rate,
        shares=board.search.shares,
        keep=board.search.keep,
        extend=board.search.extend,
        seeds=protocol.seeds,
        budget_seconds=board.budget,
        spent_seconds=board.spent(),
        methods=tuple(_method(board, who, count, plain) for who, count in enumerate(parameters)),
    )


def _method(board: Board, who: int, parameters: int | None, plain: Sequence[int]) -> MethodDecisions:
    """The decisions on one method."""
    walked, spec = board.walk(who), board.templates[who].spec
    finals = [
        _final(board, who, rate, seed)
        for rate in sorted({walked.best or board.search.default_rate, board.search.default_rate})
        for seed in board.protocol.seeds
        if (who in board.ended or not walked.wanted) and walked.best is not None
    ]
    losses: dict[float, list[float]] = {}
    for final in finals:
        if final.status in {"ok", "partial"} and final.validation_loss is not None:
            losses.setdefault(final.learning_rate, []).append(final.validation_loss)
    ended = board.ended.get(who)
    rates = board.ladder(who)
    if ended is None and walked.best is None and not walked.wanted:
        ended = "the method was left out: no rate has a validation loss"
    return MethodDecisions(
        method=spec.method.name,
        optimiser=optimiser_of(spec),
        options=spec.method.options,
        rank=spec.rank,
        grid=ladder(board.protocol.learning_rates, 0, board.shifts[who]) if board.shifts[who] else None,
        trainable_parameters=parameters,
        parameters_to_lora=parameters / plain[0] if parameters and plain else None,
        tried=tuple(
            TriedRate(
                rung=verdict.rung,
                share=board.search.shares[verdict.rung],
                learning_rate=verdict.rate,
                key=board.spec(who, board.search.shares[verdict.rung], verdict.rate).key,
                validation_loss=verdict.loss,
                decision=verdict.decision,
                reason=verdict.reason,
            )
            for verdict in walked.verdicts
        ),
        added_rates=walked.added,
        chosen_rate=walked.best if finals else None,
        tuned_rate=tuned_rate(losses),
        at_edge=bool(finals) and walked.best in (rates[0], rates[-1]) and len(rates) > 1 and not ended,
        finals=tuple(finals),
        ended_early=ended,
    )


def _final(board: Board, who: int, rate: float, seed: int) -> FinalRun:
    key = board.spec(who, 1.0, rate, seed).key
    result = board.known.get(key) if key in board.scored else None
    return FinalRun(
        learning_rate=rate,
        seed=seed,
        key=key,
        status=result.status if result is not None else None,
        validation_loss=result.validation_loss if result is not None else None,
        reason=result.reason if result is not None else board.refused.get(key),
    )


def optimiser_of(spec: RunSpec) -> str:
    """The optimiser of a run with its settings, as tables name it."""
    return spec.recipe.optimiser_label if spec.recipe is not None else DEFAULT_OPTIMISER
