"""The Space: shows the leaderboard that HUBINIT_LEADERBOARD names, a data set on the Hub or a folder beside this file."""

import os
import sys

from hubinit.errors import HubinitError
from hubinit.leaderboard.app.server import LOCAL, launch, wait
from hubinit.leaderboard.app.source import opened

EVERYWHERE = "0.0.0.0"  # noqa: S104 (a Space's container is reached through its proxy)

if __name__ == "__main__":
    try:
        with opened(os.environ.get("HUBINIT_LEADERBOARD", "board")) as data:
            wait(launch(data, host=EVERYWHERE if "SPACE_ID" in os.environ else LOCAL)[0])
    except HubinitError as error:
        sys.exit(f"error: {error}")
