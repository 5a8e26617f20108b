"""Datasets: what is shipped, and how to get the real lengths.

Real lengths lie where the user puts them and are used only where a command names them
(`--lengths FILE`): a result always says which lengths it used.
"""

from __future__ import annotations

import hashlib
import pickle
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from bench.files import write_file
from bench.workloads.lengths import Lengths, read_lengths
from bench.workloads.tables import InputFile, csv_bytes, read_input
from engines.core.errors import UserError, unknown_name

TIMEOUT_S = 60.0
MAX_BYTES = 16 << 20  # the original file has about 84,000 pairs in about 1 MB

COMMIT = "3180d2f8c2a2aa1729245f9b0cb75a854746e6a8"
PICKLE = "datasets/sharegpt_opt_text_completion_length.pkl"
PICKLE_SHA256 = "e94cab96a24400f43f8e925de61fec20eec47082c7908d26f28cd578a87b8aeb"
CHAT_COMMIT = "72339db5b120614033b317880ad3a05a5e4c9415"
CHAT_CSV = "data/processed_traces/sharegpt_8k_filtered_stats_llama2_tokenizer.csv"
CHAT_SHA256 = "6d6c296302a853e2669a674a96f269283e60c57e60363bd450588a1066919f9f"


@dataclass(frozen=True)
class Dataset:
    """A dataset: what workloads use without it, and where its real lengths can be had.

    `url` and `sha256` are empty where no file of lengths is published; then only `import_file`
    brings real lengths in.
    """

    name: str
    shipped: str
    url: str = ""
    sha256: str = ""


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "sharegpt",
            "quantiles derived from the original artifact's lengths",
            f"https://raw.githubusercontent.com/sosp-ae-39/sosp-ae-astra/{COMMIT}/{PICKLE}",
            PICKLE_SHA256,
        ),
        Dataset("alpaca", "log-normal lengths with the paper's means"),
        Dataset(
            "chat",
            "quantiles derived from real ShareGPT conversations",
            f"https://raw.githubusercontent.com/microsoft/sarathi-serve/{CHAT_COMMIT}/{CHAT_CSV}",
            CHAT_SHA256,
        ),
        Dataset("translation", "log-normal sentence lengths from published statistics"),
    )
}


def find_dataset(name: str) -> Dataset:
    """Return the dataset called `name`; raises UserError naming the nearest ones."""
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return DATASETS[name]


def lengths_path(name: str, directory: Path) -> Path:
    """Where the real lengths of a dataset lie once fetched or imported."""
    return directory / f"{find_dataset(name).name}_lengths.csv.gz"


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https addresses alone; raises UserError for others."""

    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        _require_https(args[-1])
        return super().redirect_request(*args)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise UserError(f"refused to download from {url}: only https addresses are used")


def fetch(name: str, directory: Path, *, url: str | None = None) -> Path:
    """Download a dataset's published file and store its lengths; returns the CSV's path.

    `url` is another address of the same file: its checksum must be the pinned one whatever the
    address. Nothing is written unless all checks pass. Raises UserError.
    """
    dataset = find_dataset(name)
    if not dataset.url:
        raise UserError(
            f"no file of {name}'s lengths is published: make a CSV with columns "
            f"input_len,output_len and run `bench data import {name} FILE`"
        )
    address = url or dataset.url
    _require_https(address)
    opener = urllib.request.build_opener(_HttpsOnly())
    try:
        with opener.open(address, timeout=TIMEOUT_S) as response:
            data = response.read(MAX_BYTES + 1)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"could not download {address} ({reason}): download it by other means and run "
            f"`bench data import {name} FILE`"
        ) from error
    return _store(name, _verified_lengths(data, dataset, address), directory)


def import_file(name: str, path: Path, directory: Path) -> Path:
    """Store a user's file of lengths as a dataset's real lengths; returns the CSV's path.

    The file is the dataset's published one, as each .pkl must be, or a trace or lengths in a known
    format. Raises UserError.
    """
    dataset = find_dataset(name)
    file = read_input(path)
    if path.suffix != ".pkl" and file.sha256 != dataset.sha256:
        return _store(name, read_lengths(file), directory)
    if not dataset.sha256:
        raise UserError(
            f"{path}: no pickle of {name} is published: give a CSV with columns "
            "input_len,output_len"
        )
    return _store(name, _verified_lengths(file.data, dataset, str(path)), directory)


def _verified_lengths(data: bytes, dataset: Dataset, origin: str) -> Lengths:
    if len(data) > MAX_BYTES:
        raise UserError(f"{origin} is larger than {MAX_BYTES} bytes: not the published file")
    digest = hashlib.sha256(data).hexdigest()
    if digest != dataset.sha256:
        raise UserError(
            f"{origin} is not the published file of {dataset.name} or is incomplete: sha256 "
            f"{digest} over {len(data)} bytes, expected {dataset.sha256}"
        )
    if digest == CHAT_SHA256:
        return turns_of_rounds(read_lengths(InputFile(Path(origin), data)))
    # Its bytes are known: this pickle holds a list of pairs and nothing to execute.
    return Lengths(*np.array(pickle.loads(data), dtype=np.int32).T.copy())


def turns_of_rounds(rounds: Lengths) -> Lengths:
    """Queries and answers of rounds whose inputs are whole prompts, the history included.

    Rounds are in the order of their conversations; one that is longer than all that was said in the
    round before continues it.
    """
    prompts, answers = rounds.input_len.astype(np.int64), rounds.output_len
    said = np.concatenate([[0], (prompts + answers)[:-1]])
    continues = prompts > said
    continues[:1] = False
    queries = np.where(continues, prompts - said, prompts).astype(np.int32)
    return Lengths(queries, answers, np.cumsum(~continues).astype(np.int32) - 1)


def _store(name: str, lengths: Lengths, directory: Path) -> Path:
    path = lengths_path(name, directory)
    write_file(path, csv_bytes(lengths.columns(), compress=True))
    return path
