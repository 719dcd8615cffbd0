"""The process that computes for `math_verify`: one JSON line `[output, gold]` in, one JSON line out; a script, not imported."""

import faulthandler
import json
import os
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

SECONDS = 10  # math-verify's own limits are 5 for parsing and 5 for comparing
MEMORY = 2 << 30


@lru_cache(maxsize=4)
def parsed(text: str) -> list[Any]:
    """Expressions and the text they were read from."""
    from math_verify import parse

    return list(parse(text, parsing_timeout=None))


def answer(output: str, gold: str | None) -> str | bool | None:
    """The answer as it is written; with a reference whether they are equal."""
    from math_verify import verify

    found = parsed(output)
    if gold is not None:
        return bool(found) and bool(verify(parsed(gold), found, timeout_seconds=None))
    return str(found[-1])[:1000] if found else None


def main() -> None:
    """Answers until its input ends. A watchdog thread, which needs no interpreter, ends the process after `SECONDS`."""
    import math_verify  # noqa: F401

    with suppress(ImportError, ValueError, OSError):  # Windows has no limit, macOS refuses this one
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", flush=True)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for line in sys.stdin:
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=nowhere)
            reply = None
            with suppress(Exception):  # whatever it meets in a model's text, memory and recursion included
                reply = answer(*json.loads(line))
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
