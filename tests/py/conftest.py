import os
import subprocess
import sys
from pathlib import Path

import pytest

from sllm_store.disk_tier import DiskTier

ROOT = Path(__file__).parents[2]

# No test loads through a store of this machine by accident; this is inherited by the children of tests.
os.environ["SLLM_STORE"] = "/nonexistent/sllm/store.sock"


@pytest.fixture(scope="session")
def simulated_driver() -> str:
    """The path of the simulated driver, built."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.check_output([ROOT / "tools/cuda_sim.sh"], text=True, env=environment).splitlines()[-1]


@pytest.fixture
def tier(tmp_path: Path):
    """A disk tier without a limit."""
    opened = DiskTier(tmp_path / "tier")
    yield opened
    opened.close()
