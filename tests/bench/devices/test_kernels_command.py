"""`bench kernels`, on the CPU and in small."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from bench.cli import main
from bench.results import measurements as kernels
from engines.core.errors import UserError

SMALL = ("--device", "cpu", "--batches", "2,3", "--contexts", "20", "--block-sizes", "4,16",
         "--tokens", "20", "--rounds", "2", "--samples", "2")  # fmt: skip


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, ["kernels", *words])


@pytest.mark.usefixtures("small_device")
def test_both_figures_are_measured_and_kept(tmp_path: Path) -> None:
    result = bench(*SMALL, "--json", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == kernels.read_measurement(tmp_path)
    assert (found["backend"], found["setup"]["dtype"]) == ("cpu", "float32")
    assert len(found["provenance"]["source_sha256"]) == 64
    attention = pd.DataFrame(found["attention"])
    assert sorted(zip(attention["kind"], attention["batch_size"], strict=True)) == [
        ("contiguous", 2), ("contiguous", 3), ("paged", 2), ("paged", 3)
    ]  # fmt: skip
    # Keys and values of 20 tokens in two heads of 64, queries and outputs, four bytes each.
    assert attention["bytes_moved"][0] == 2 * (2 * 20 * 128 + 2 * 128) * 4
    assert (attention["p25_s"] <= attention["latency_s"]).all()
    assert (attention["latency_s"] <= attention["p75_s"]).all()
    share = attention["bytes_moved"] / attention["latency_s"] / found["copy_bandwidth"]
    assert share.tolist() == pytest.approx(attention["share_of_copy"].tolist())
    assert [row["batch_size"] for row in found["ratios"]] == [2, 3]
    assert all(0 < r["least"] <= r["largest"] for r in found["ratios"])
    assert all(r["paged_over_contiguous"] > 0 for r in found["ratios"])


def test_the_ratio_is_of_the_quickest_samples() -> None:
    from bench.devices.kernels import ratio_row

    row = ratio_row((8, 64), [(3.0, 9.0, 9.0), (2.0, 4.0, 6.0)], [(1.0, 3.0, 3.0), (8.0, 8.0, 8.0)])
    assert row.paged_over_contiguous == 2.0
    assert (row.least, row.largest) == (0.5, 3.0)


@pytest.mark.usefixtures("small_device")
def test_swapping_and_recomputing_by_block_size(tmp_path: Path) -> None:
    result = bench(*SMALL, "--only", "recovery", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "20 tokens (Fig. 19a)" in result.stdout
    found = kernels.read_measurement(tmp_path)
    assert found["attention"] == []
    recovery = pd.DataFrame(found["recovery"])
    assert recovery["block_size"].tolist() == [4, 16]
    assert (recovery[["swap_out_s", "swap_in_s", "recompute_s"]] > 0).all(axis=None)
    # 20 and, in blocks of 16, 32 tokens: keys and values of two layers, 128 wide, four bytes.
    assert recovery["swapped_bytes"].tolist() == [20 * 2048, 32 * 2048]
    assert not recovery["staged"].any()


BAD = {
    "--batches 0": "'--batches': 0 is not in the range 1<=x<=4096",
    "--contexts 1,x": "'--contexts': 'x' is not a whole number",
    "--block-sizes 512": "'--block-sizes': 512 is not in the range 1<=x<=256",
    "--device gpu": "unknown device 'gpu'",
    "--model opt-14b": "unknown model 'opt-14b'",
    "--dtype float16": "the cpu kernels do not compute in 'float16'",
    "--only both": "both",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, words: str) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out"
    result = bench("--device", "cpu", "--out", str(out), *words.split())
    assert result.exit_code == 2
    assert BAD[words] in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "bench kernels --out"), ("{", "not valid JSON"), ("[]", "no measurement of this")],
)
def test_a_file_that_is_no_measurement(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / kernels.FILE).write_text(content)
    with pytest.raises(UserError, match=told):
        kernels.read_measurement(tmp_path)
