"""Chance that can be repeated: one seed a run, which the report names."""

from __future__ import annotations

import os
import random

#: Workers inherit it, so all of them collect the same tests.
SEED = os.environ.setdefault("COLDFRAME_E2E_SEED", str(random.SystemRandom().randrange(1 << 32)))


def dice(what: str) -> random.Random:
    """What is thrown for one purpose, whatever was thrown for another."""
    return random.Random(f"{SEED}/{what}")
