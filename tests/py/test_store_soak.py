"""The soak of the store (`make soak`) in a short form: its promises hold in some seconds as they do in ten minutes."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "soak" / "store.py"
# Takes longer than the rest.
EVICTIONS = "the pool was evicted three times over"


def test_clients_that_load_and_die_meet_right_bytes_and_leave_no_lease():
    command = [sys.executable, str(SOAK), "--minutes", "0.1", "--clients", "4", "--pool-mib", "48"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    result = json.loads(outcome.stdout)
    broken = [promise for promise, is_kept in result["promises"].items() if not is_kept and promise != EVICTIONS]
    assert not broken, (result, outcome.stderr)
    assert result["counts"]["killed"] > 0
    assert result["status"]["evicted_bytes"] > 0
