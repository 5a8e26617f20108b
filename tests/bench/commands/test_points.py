"""Points given as JSON lines: what ends up in the store, and how bad lines are told."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from command_line import bench, refused
from processes import DEADLINE_S, started

from bench.point.spec import PointSpec
from bench.results.store import State, Store, name_of

SPECS = [
    PointSpec(system="astra", rate=2.0, duration=20.0, seed=seed, warmup=0.0) for seed in range(4)
]
LINES = "".join(f"{json.dumps(spec.to_dict())}\n\n" for spec in SPECS)


def points(*words: str, text: str = LINES) -> Result:
    return bench("points", "-", *words, input=text)


def test_points_come_into_the_store_once(tmp_path: Path) -> None:
    words = ["--artifacts", str(tmp_path)]
    first = points(*words, "--json", "--quiet")
    assert first.exit_code == 0, first.output
    told = [json.loads(line) for line in first.stdout.splitlines()]
    ends = {each["point"]: each["error"] for each in told if each["event"] == "end"}
    assert ends == {name_of(spec): "" for spec in SPECS}
    assert all(Store(tmp_path).state(spec) is State.COMPLETE for spec in SPECS)
    assert "4 already complete" in points(*words).stderr


def test_a_failed_point_is_told_and_recorded(tmp_path: Path) -> None:
    spec = PointSpec(system="astra", duration=20.0, warmup=100.0)
    words = ["--artifacts", str(tmp_path), "--json"]
    result = points(*words, text=json.dumps(spec.to_dict()))
    assert result.exit_code == 1
    end = json.loads(result.stdout.splitlines()[-1])
    assert end["error"].startswith("no request arrives after the warm-up")
    assert json.loads(Store(tmp_path).failure_path(spec).read_text())["error"] == end["error"]


def test_forced_commands_that_share_the_work_run_each_point_once(tmp_path: Path) -> None:
    assert points("--artifacts", str(tmp_path), "--quiet").exit_code == 0
    store = Store(tmp_path)
    before = [store.load_record(spec)["provenance"]["started"] for spec in SPECS]
    file = tmp_path / "points.jsonl"
    file.write_text(LINES)
    command = [sys.executable, "-m", "bench", "points", str(file), "--artifacts", str(tmp_path)]
    command += ["--force", "--since", datetime.now(UTC).isoformat(), "--jobs", "1"]
    with started(command) as one, started(command) as other:
        told = [process.communicate(timeout=DEADLINE_S)[1] for process in (one, other)]
        assert [one.returncode, other.returncode] == [0, 0], told
    made = [int(n) for text in told for n in re.findall(r"^points: (\d+) run", text, re.MULTILINE)]
    assert sum(made) == 4, told
    after = [store.load_record(spec)["provenance"]["started"] for spec in SPECS]
    assert all(new > old for new, old in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ('{"system": 1', (), "<stdin> line 1: not valid JSON"),
        ("[1]", (), r"line 1: expected a JSON object, got \[1\]"),
        ('{"rate": 1}', (), "line 1: point lacks the setting system"),
        ('{"system": "astra", "rate": "fast"}', (), "rate: expected a number, got 'fast'"),
        ('{"system": "astra", "rate": true}', (), "rate: expected a number, got True"),
        ('{"system": 1}', (), "system: expected text, got 1"),
        ('{"system": "astra", "window": [1, 2, 3]}', (), "window: expected .*, got "),
        ('{"system": "astra", "seed": 1' + "0" * 5000 + "}", (), "line 1: not valid JSON"),
        ("[" * 100_000, (), "line 1: not valid JSON"),
        ('{"system": "\udcff"}', (), r"line 1: unknown system '.udcff'"),
        (LINES + '{"system": "astr"}', (), "line 9: .*did you mean astra"),
        ('{"system": "astra", "color": 1}', (), "line 1: .*color"),
        ('{"system": "astra", "backend": "auto"}', (), "line 1: say which backend"),
        (LINES, ("--force", "--since", "noon"), "--since takes a time"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, text: str, words: tuple[str, ...], message: str
) -> None:
    content = text.encode(errors="surrogateescape")
    line = refused("points", "-", "--artifacts", tmp_path / "none", *words, input=content)
    assert re.search(message, line), line
    assert not (tmp_path / "none").exists()
