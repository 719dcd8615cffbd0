"""Which optimiser trains which method in a plan."""

from collections.abc import Callable, Sequence

from hubinit import methods as registry
from hubinit.errors import HubinitError
from hubinit.specs import DEFAULT_OPTIMISER, FULL, NO_ADAPTER, OF_OPTIMISER, Protocol, RunSpec
from hubinit.training import optimisers


def check_settings(protocol: Protocol) -> None:
    """Refuses settings of an optimiser that is not asked for.

    Raises:
        HubinitError: there is one.
    """
    for name, optimiser in OF_OPTIMISER.items():
        if name in protocol.recipe.model_fields_set and optimiser not in protocol.optimisers:
            raise HubinitError(f"recipe.{name} is a setting of {optimiser}; add {optimiser} to --optimizers.")


def fit_quantised(methods: Sequence[str], named: Sequence[str], tell: Callable[[str], None]) -> list[str]:
    """The methods that can start on a base in 4 bits.

    Args:
        methods: all of them, by name.
        named: the methods that the user named, which must fit.
        tell: told of each other one that is left out.

    Raises:
        HubinitError: a named method does not fit.
    """
    fitting = [name for name in methods if name == "none" or (name != FULL and registry.get(name).quantised)]
    for name in methods:
        if name not in fitting:
            reason = f"'{name}' needs the weights themselves and does not fit a quantised base; leave out --quantize."
            if name in named:
                raise HubinitError(reason)
            tell(f"Left out: {reason}")
    return fitting


def pair_optimisers(
    methods: Sequence[str], wanted: Sequence[str], named: Sequence[str], tell: Callable[[str], None]
) -> list[tuple[str, str]]:
    """Each method with each optimiser that fits it; what has no adapter (`none`, `full`) once, with the default one.

    Args:
        methods: all of them, by name.
        wanted: the optimisers.
        named: the methods that the user named; a pair of them must fit.
        tell: told of each other pair that is left out.

    Raises:
        HubinitError: an unknown optimiser, or one that does not fit a named method.
    """
    found = [optimisers.get(name) for name in wanted]
    pairs = []
    for name in methods:
        if name in NO_ADAPTER:
            pairs.append((name, DEFAULT_OPTIMISER))
            continue
        for optimiser in found:
            try:
                optimisers.check_fit(optimiser, registry.get(name))
            except HubinitError as error:
                if name in named:
                    raise
                tell(f"Left out: {error}")
            else:
                pairs.append((name, optimiser.name))
    return pairs


def name_of(spec: RunSpec) -> str:
    """`method optimiser` of a run that trains."""
    assert spec.recipe is not None
    return f"{spec.method.name} {spec.recipe.optimiser_label}"
