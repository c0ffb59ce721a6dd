"""The page's process with its sides drawn by a script: `python -m tests.ui.forced_page LR` puts the older answer of the
first pair left, of the second right, and so on from the start.
"""

import asyncio
import itertools
import sys

from ui.app import serve
from ui.settings import Settings

if __name__ == "__main__":
    sides = itertools.cycle(sys.argv[1])
    asyncio.run(serve(Settings.read(), draw=lambda: next(sides) == "L"))
