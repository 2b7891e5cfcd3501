"""Inputs that nobody means, by seed: texts of models, passages files, command lines.

    python tests/fuzz/fuzz_inputs.py parsers 100000 [SEED]

or ``passages``, or ``overrides``. Each input is drawn by its number and the seed alone.
What models write is data, whatever it is; a file or a command line is data or a
``UserError`` of one line. Nothing else may come of it, and nothing may take longer than
``SLOW`` seconds of computing. Requests: ``fuzz_requests``.
"""

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS

SLOW = 5.0


class TooSlow(Exception):
    """An input took longer than ``SLOW`` seconds of computing."""


def fuzz(
    target: str, seed: int, numbers: range
) -> tuple[Counter[str], list[str], float]:
    """Reads the inputs; returns counts by outcome, what was wrong, the longest time."""

    def too_slow(*_: Any) -> None:
        raise TooSlow

    counts: Counter[str] = Counter()
    wrong: list[str] = []
    worst, before = 0.0, signal.signal(signal.SIGVTALRM, too_slow)
    with tempfile.TemporaryDirectory() as folder:
        checks = list(TARGETS[target](Path(folder)))
        for number in numbers:
            draw = random.Random(f"{target} {seed} {number}")
            # One in five is of a target's second kind.
            check = checks[-1] if number % 5 == 4 else checks[0]
            signal.setitimer(signal.ITIMER_VIRTUAL, SLOW)
            start = time.process_time()
            try:
                counts[check(draw)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                wrong.append(f"{number}: {type(error).__name__}: {str(error)[:300]}")
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            worst = max(worst, time.process_time() - start)
    signal.signal(signal.SIGVTALRM, before)
    return counts, wrong, worst


def main(target: str, count: str, seed: str = "0") -> int:
    start = time.monotonic()
    counts, wrong, worst = fuzz(target, int(seed), range(int(count)))
    seconds = time.monotonic() - start
    print(f"{target}: {dict(counts)} in {seconds:.0f} s, longest {worst:.2f} s")
    print(*wrong[:20], f"{len(wrong)} wrong", sep="\n", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
