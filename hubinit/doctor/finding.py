"""One line of what `hubinit doctor` says."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, and how it is.

    Attributes:
        name: of the thing.
        state: `warn`: something that hubinit offers does not work here, or not as tested; `fail`: hubinit does not work.
        found: what is there.
        advice: what to do; "" where nothing is to be done.
    """

    name: str
    state: State
    found: str
    advice: str = ""
