"""The home-made queue of examples/own_queue, and its adapter as an installed package."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_queue"
ADAPTER = EXAMPLE / "telemetry" / "own_queue_telemetry.py"


def install(folder: Path) -> Path:
    """Install the adapter into this folder, out of the network's reach."""
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation"]
    package = ["--no-compile", "--target", str(folder), str(EXAMPLE / "telemetry")]
    subprocess.run([*pip, *package], check=True)
    return folder
