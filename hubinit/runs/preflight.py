"""What is found before the work: everything about a run that can be wrong and is known without weights and without a pass."""

from hubinit.adapters.attach import check_rank
from hubinit.errors import HubinitError
from hubinit.models.layers import target_layers
from hubinit.models.shapes import empty_model
from hubinit.specs import RunSpec


def check_targets(spec: RunSpec) -> None:
    """Checks the target modules, the rank and alpha of a run against the shapes of its model; `none` has none of them.

    Raises:
        HubinitError: targets that match nothing, a rank above a layer's, or a model whose configuration cannot be had.
    """
    if spec.method.name != "none":
        check_rank(spec.rank, spec.alpha, target_layers(empty_model(spec.model), spec.target_modules))


def check_samples(asked: int | None, available: int, name: str) -> None:
    """Checks the number of calibration examples that the user asked for; a default number takes what there is.

    Raises:
        HubinitError: there are fewer.
    """
    if asked is not None and asked > available:
        raise HubinitError(
            f"{name} has {available} examples, and {asked} are asked for with --calibration-samples; ask for at most {available}."
        )
