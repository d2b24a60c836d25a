"""The JavaScript SDK: runs js/sdk.test.mjs once and reports each of its tests as one of ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "js" / "sdk.test.mjs"
#: For all of them, in seconds: several boot a kernel.
PATIENCE = 420
NAMES = re.findall(r"^test\('([^']+)'", SOURCE.read_text(), re.M)


@pytest.fixture(scope="module")
def outcome(js) -> dict[str, str]:
    """The name of every test that ran, with what node said about it when it failed."""
    done = js(SOURCE, "--test-reporter=tap", timeout=PATIENCE)
    results: dict[str, str] = {}
    parts = re.split(r"^(ok|not ok) \d+ - (.+?)$", done.stdout, flags=re.M)
    for verdict, name, details in zip(parts[1::3], parts[2::3], parts[3::3]):
        results[name.replace("\\#", "#")] = "" if verdict == "ok" else details[:3000] or "failed"
    results.setdefault("", done.stdout[-1500:] + done.stderr[-3000:])
    return results


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("name", NAMES)
def test_javascript(outcome: dict[str, str], name: str):
    assert name in outcome, f"it did not run: {outcome['']}"
    assert outcome[name] == "", outcome[name]
