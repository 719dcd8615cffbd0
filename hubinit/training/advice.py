"""What is known of a learning rate that curvature suggests: said wherever one is shown."""

SUGGESTED = "suggested_learning_rate"  # in the summary of an initialisation
STUDY = "the best of four rates (2e-4 to 2e-3) on ARC-Easy with SmolLM2-135M at rank 8"
# The suggestion ÷ the rate with the lowest validation loss there (benchmarks/results/studies/curvature.json).
MEASURED = {"lora": 1.5, "pissa": 1.4, "filet": 250.0}
TOO_FAR = 10.0


def how_sure(method: str) -> str:
    """How far the suggestion for a method can be trusted, and what to do with it, in two sentences."""
    times = MEASURED.get(method)
    if times is not None and times > TOO_FAR:
        return f"Do not train {method} with it: it was {times:g} times {STUDY}. Try the rates that plain LoRA is trained at."
    if times is None:
        others = ", ".join(f"{name} {found:g}" for name, found in MEASURED.items())
        known = f"Nobody has checked it for {method}; of others it was so many times {STUDY}: {others}"
    else:
        known = f"For {method} it was {times:g} times {STUDY}; for filet it was {MEASURED['filet']:g} times it"
    return f"{known}. It is a place to begin a sweep: try a third of it and three times it, too."
