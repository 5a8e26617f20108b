"""Ours beside DynoSim: traces as it reads them, prices as ours, and what fails is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.point.platform import simulate
from bench.point.spec import PointSpec
from benchmarks import peers
from benchmarks.peers import DynoSim, Run

SHORT = PointSpec(system="astra", workload="sharegpt", rate=2.0, duration=20.0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One short trace, and a slow script that stands for DynoSim."""
    monkeypatch.setattr(peers, "TRACES", {"sharegpt": SHORT})
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\njob = json.load(sys.stdin)\n"
        "lines = [json.loads(line) for line in open(job['trace'])]\n"
        "tokens = sum(line['output_length'] for line in lines)\n"
        "print(json.dumps({'seconds': 1e3, 'tokens': tokens, 'simulated_s': 1.0}))\n"
    )
    monkeypatch.setattr(peers, "_SCRIPT", script)
    return tmp_path


def test_both_simulate_the_same_tokens_and_targets_are_judged(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = DynoSim(peers.EQUAL, Path(sys.executable), {})
    monkeypatch.setattr(peers, "dynosims", lambda folder: [peer])
    assert peers.main(["--rounds", "2", "--folder", str(short)]) == 0
    assert "reached" in capsys.readouterr().out
    found = json.loads((short / "peers.json").read_text())["sharegpt"]
    assert len(found["ours"]) == len(found[peers.EQUAL]) == 2
    assert {run["tokens"] for runs in found.values() for run in runs} == {
        found["ours"][0]["tokens"]
    }
    ids = [i for line in (short / "sharegpt.jsonl").read_text().splitlines()
           for i in json.loads(line)["hash_ids"]]  # fmt: skip
    assert len(set(ids)) == len(ids) > 0, "requests share no block"


def test_a_peer_that_fails_is_one_line(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (short / "script.py").write_text("raise SystemExit('no such engine')\n")
    peer = DynoSim(peers.EQUAL, Path(sys.executable), {})
    monkeypatch.setattr(peers, "dynosims", lambda folder: [peer])
    with pytest.raises(SystemExit) as ended:
        peers.main(["--rounds", "1", "--folder", str(short)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "DynoSim, our step times failed: no such engine" in told


def test_ratios_are_medians_over_rounds() -> None:
    ours = [Run(seconds, 1, 1.0) for seconds in (1.0, 2.0, 1.0)]
    theirs = [Run(seconds, 1, 1.0) for seconds in (3.0, 4.0, 30.0)]
    assert peers.ratio(theirs, ours) == 3.0


def test_its_table_of_steps_holds_our_prices() -> None:
    from bench.point.setting import settle

    table = peers.step_times()
    spec = peers.TRACES["sharegpt"]
    platform = simulate(spec)
    cost = platform.create_executor(settle(spec, platform).config, 0).cost  # type: ignore[attr-defined]
    tokens, context = table["decode_active_kv_tokens"], table["decode_context_length"]
    assert table["decode_itl"].shape == (len(tokens), len(context))
    assert np.all(np.diff(table["prefill_ttft_ms"]) > 0)
    i, j = list(tokens).index(8192), list(context).index(256)
    expected = 1e3 * cost.decode_seconds(32, 8192, groups=32, beam_groups=0)
    assert table["decode_itl"][i, j] == pytest.approx(expected)
