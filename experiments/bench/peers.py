"""Peers that need another environment: a virtual environment and a process of their own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGES = {
    "gym_electric_motor": [
        "torch==2.13.0",
        "stable-baselines3==2.9.2",
        "gymnasium<1.4",
        "gym-electric-motor==3.0.3",
    ],
    "qdax": ["qdax==0.5.0"],
    # rejax 0.1.3 needs gymnax below 1, which excludes an environment shared with ours.
    "rejax": ["rejax==0.1.3", "gymnax<1"],
    "stable_baselines3": ["torch==2.13.0", "stable-baselines3==2.9.2", "gymnasium<1.4"],
    "torch": ["torch==2.13.0", "numpy"],
    "trl": [
        "torch==2.13.0",
        "transformers==5.24.0",
        "peft==0.21.2",
        "accelerate==1.15.0",
        "datasets==5.2.0",
        "trl==1.16.0",
    ],
}
"""What each environment holds."""

ENVIRONMENTS = {
    "gym_electric_motor": "gym_electric_motor",
    "gym_electric_motor_ppo": "gym_electric_motor",
    "qdax": "qdax",
    "qdax_policies": "qdax",
    "rejax": "rejax",
    "stable_baselines3": "stable_baselines3",
    "stable_baselines3_td3": "stable_baselines3",
    "torch_inventory": "torch",
    "torch_tiny": "trl",
    "transformers": "trl",
    "trl": "trl",
}
"""The environment of each peer."""


def interpreter(peer: str) -> pathlib.Path:
    """The Python of the peer's environment, installed under `.cache/peers` the first time.

    Args:
      peer: a name of `ENVIRONMENTS`.

    Returns:
      Path of the interpreter.
    """
    packages = PACKAGES[ENVIRONMENTS[peer]]
    folder = ROOT / ".cache" / "peers" / ENVIRONMENTS[peer]
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {' '.join(packages)}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        # One after the other: torch first, or its dependants choose another build of it.
        for package in packages:
            subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
        (folder / "installed").touch()
    return python


class Peer:
    """A peer's process; each `measure` runs one measurement in it."""

    def __init__(self, peer: str, *arguments: str):
        """Starts the peer and waits until it has compiled.

        Args:
          peer: a name of `ENVIRONMENTS`; runs `peer_<name>.py` of this folder.
          *arguments: of that script.
        """
        script = pathlib.Path(__file__).parent / f"peer_{peer}.py"
        self._process = subprocess.Popen(
            [interpreter(peer), script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        ready = json.loads(self._process.stdout.readline())
        self.version, self.compile_seconds = ready["version"], ready["compile_seconds"]

    def measure(self) -> float:
        """One figure of the peer."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
