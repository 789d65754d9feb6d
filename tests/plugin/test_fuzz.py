"""Broken fields and descriptions by the thousand, under AddressSanitizer, LeakSanitizer and UBSan."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from plugin.build import fuzzer

COUNT = 3000


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_broken_gets_past_the_checks(seed: int) -> None:
    done = subprocess.run(
        [str(fuzzer()), str(seed), str(COUNT)],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-500:]}{done.stderr[-3000:]}"
    assert done.stderr == ""
    found = re.fullmatch(r"(\d+) made, (\d+) refused, (\d+) kinds of refusal\n", done.stdout)
    assert found is not None, done.stdout
    made, refused, kinds = map(int, found.groups())
    assert made + refused == COUNT
    # All 19 fields were refused at some time, and much was made.
    assert made > COUNT / 4
    assert kinds >= 19
