"""What each method looks at before it initialises: the families by which the leaderboard is filtered."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "no adapter": ("none", "full"),
    "random": ("lora", "lora-fa"),
    "weights": ("pissa", "milora", "mica", "olora", "orthogonal"),
    "activations": ("eva", "corda"),
    "gradients": ("lora-ga", "lora-one", "lora-da", "lora-fa+lora-da"),
    "Fisher information": (*("filet", "filet-m", "filet-p", "filet-r", "filet-svd-m", "filet-svd-p", "filet-svd-r"),),
    "other parametrisation": ("dora", "lora-dash", "kasa", "neat"),
}
OTHER = "other"  # such as `peft:vera`, or a method of a newer version
_OF = {method: family for family, methods in FAMILIES.items() for method in methods}


def family_of(method: str) -> str:
    """The family of a method by its name."""
    return _OF.get(method, OTHER)
