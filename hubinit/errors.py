"""Errors that a user can act on.

Every message is one sentence or two: what went wrong, where, and what to do. The CLI prints it without a traceback.
"""


class HubinitError(Exception):
    """Something the user can act on; the message says what, where and what to do."""


class InitialisationError(HubinitError):
    """A method cannot initialise this model with these inputs."""


class CalibrationError(HubinitError):
    """The calibration data or the statistics from it cannot be used."""


class GateError(HubinitError):
    """A run failed a check that stands between it and a stored score."""


class DivergedError(HubinitError):
    """Training produced a loss or gradient that is not finite."""


class HubError(HubinitError):
    """The Hub could not be reached, refused the request, or holds something unusable."""


class Interrupted(HubinitError):
    """The user pressed Ctrl-C."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, or the name of its type when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def nearest(name: str, known: list[str]) -> str:
    """A ready-made hint for an unknown name: the closest known ones, or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}."
