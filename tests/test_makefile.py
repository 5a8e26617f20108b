"""Make knows what the registry knows, and hands on what a user sets just as it was written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.experiments import registry

ROOT = Path(__file__).parents[1]
# Stands for every program of the environment: notes its name and its words.
RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    print(json.dumps([words, os.environ.get("BENCH_BUILD_ARGS")]), file=file)
"""
NASTY = (
    *("a b", "a'b", 'a"b', "a;touch hurt", "$(touch hurt)", "`touch hurt`", "$HOME", "a$b", "-x"),
    *("a\nb", "a&b", "a|b", "*", "a\\b", "~", "a#b", "a=b", "--force", "$$", "ü"),
)


class Copy:
    """The Makefile alone in a folder, with an environment that records what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "record.jsonl"
        (folder / "tools").mkdir()
        shutil.copy(ROOT / "Makefile", folder)
        # install.sh VENV WHAT: notes its words, and makes the environment of recorders.
        (folder / "tools" / "install.sh").write_text(
            '"$RECORDER" "$@" && mkdir -p "$1/bin" && for name in bench python; do '
            'cp "$RECORDER" "$1/bin/$name"; done\n'
        )
        (folder / "recorder").write_text(RECORDER)
        (folder / "recorder").chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> list[list[str]]:
        """Run make; returns the words of every program that it started."""
        self.record.unlink(missing_ok=True)
        env = {
            **os.environ,
            "RECORD": str(self.record),
            "RECORDER": str(self.folder / "recorder"),
            **environment,
        }
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not list(self.folder.rglob("hurt"))
        return [words for words, _ in self.noted()]

    def noted(self) -> list[tuple[list[str], str | None]]:
        """Words, and the build arguments in the environment."""
        return [tuple(json.loads(line)) for line in self.record.read_text().splitlines()]

    def bench(self, *arguments: str) -> list[str]:
        """The words of the first call of bench."""
        return next(words[1:] for words in self.make(*arguments) if words[0] == "bench")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    (folder := tmp_path / "a copy").mkdir()
    return Copy(folder)


# Scripts of the original artifact, by the names that people know.
ORIGINALS = (
    *("fig2", "fig12-13b-sharegpt", "fig12-13b-alpaca", "fig12-66b", "fig12-175b", "fig13"),
    *("fig14-parallel", "fig14-beam", "fig15", "fig16", "fig17"),
    *("fig18-a", "fig18-b", "fig19-a", "fig19-b"),
)


@pytest.mark.parametrize("name", ORIGINALS)
def test_names_of_the_original_are_known(name: str) -> None:
    assert name in registry.names()


def test_every_name_of_the_registry_is_a_target(copy: Copy) -> None:
    calls = copy.make(*registry.names(), "FULL=1", "SEED=3", "FORCE=1")
    figures = [words for words in calls if words[:2] == ["bench", "figure"]]
    named = [name for words in figures for name in words if name in registry.names()]
    assert sorted(named) == sorted(registry.names())
    assert all({"--full", "--force", "--seed=3"} <= set(words) for words in figures)


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("by", ["word", "environment"])
def test_what_a_user_sets_arrives_as_it_was_written(copy: Copy, value: str, by: str) -> None:
    names = ("ARTIFACTS", "SEED", "LENGTHS", "JOBS", "RUNNER", "RAY", "BACKEND")
    if by == "word":
        calls = copy.make("fig2", *(f"{name}={value}" for name in names))
    else:
        calls = copy.make("fig2", **dict.fromkeys(names, value))
    (words,) = [words for words in calls if words[0] == "bench"]
    options = [f"--{name.lower()}={value}" for name in names]
    assert words[:2] == ["bench", "figure"]
    assert sorted(words[2:]) == sorted([*options, "--", "fig2"])


@pytest.mark.parametrize("value", [v for v in NASTY if v not in ("--force", "-x")])
def test_an_environment_and_a_goal_may_have_any_name(copy: Copy, value: str) -> None:
    value = value.replace("\n", " ")
    calls = copy.make("fig2", f"VENV={value}", f"PYTHON={value}")
    assert calls[0] == ["recorder", value, "base"]
    if not set("=(") & set(value):  # which make takes for a setting or a member of an archive
        assert copy.bench(f"fig{value}", "JOBS=1")[-1] == f"fig{value}"


def test_build_arguments_and_devices_reach_the_images(copy: Copy) -> None:
    copy.make("images", "BUILD_ARGS=A=1 B=$x;y", "DEVICE=cpu")
    ((words, build_args),) = [noted for noted in copy.noted() if noted[0][0] == "bench"]
    assert words == ["bench", "images", "--device=cpu"]
    assert build_args == "A=1 B=$x;y"


def test_cleaning_asks_bench_and_removes_nothing_itself(copy: Copy) -> None:
    (copy.folder / "precious").mkdir()
    assert copy.bench("clean", "ARTIFACTS=precious dir") == [
        "clean", "--yes", "--artifacts=precious dir"
    ]  # fmt: skip
    assert (copy.folder / "precious").is_dir()


@pytest.mark.parametrize("name", ["ARTIFACTS", "VENV"])
def test_an_empty_folder_is_refused_before_anything_runs(copy: Copy, name: str) -> None:
    done = subprocess.run(
        ["make", "clean", f"{name}="], cwd=copy.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{name} is empty" in done.stderr


def test_a_file_of_a_figures_name_does_not_stop_it(copy: Copy) -> None:
    for name in ("fig2", "ready", "clean", "on-ray"):
        (copy.folder / name).touch()
    assert copy.bench("fig2")[-1] == "fig2"


def test_a_quick_run_is_quick_everywhere(copy: Copy) -> None:
    for target in ("fig2", "all-main", "all", "report"):
        calls = [words for words in copy.make(target, "QUICK=1") if words[0] == "bench"]
        assert calls
        assert all("--quick" in words for words in calls)


def test_a_cluster_is_used_where_points_run(copy: Copy) -> None:
    for target in ("fig2", "all-main", "all", "reference"):
        calls = copy.make(target, "RAY=10.0.0.1:6379", "JOBS=3")
        first = next(words for words in calls if words[0] == "bench")
        assert {"--ray=10.0.0.1:6379", "--jobs=3"} <= set(first)
        assert ["python", "-c", "import ray"] in calls
        assert ["python", "-c", "import ray"] not in copy.make(target)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("fig2 BACKEND=cpu", "models"),
        ("fig18-a", "models"),
        ("fig18-a RUNNER=docker", "base"),
        ("fig2 BACKEND=cuda RUNNER=docker", "base"),
    ],
)
def test_pytorch_is_installed_where_it_is_used(copy: Copy, words: str, what: str) -> None:
    assert copy.make(*words.split())[0] == ["recorder", ".venv", what]


@pytest.mark.parametrize(
    ("words", "what"),
    [("all", "models"), ("images", "base"), ("bundle bundle-check", "base"),
     ("images fig2", "models"), ("images fig2 RUNNER=docker", "base")],
)  # fmt: skip
def test_a_machine_with_a_gpu_gets_pytorch_unless_images_bring_it(
    copy: Copy, words: str, what: str
) -> None:
    (copy.folder / "nvidia-smi").touch(mode=0o755)
    path = f"{copy.folder}:{os.environ['PATH']}"
    assert copy.make(*words.split(), PATH=path)[0] == ["recorder", ".venv", what]


def test_help_lists_targets_without_installing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "help", f"VENV={tmp_path}/none"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "make all-main" in done.stdout
    assert not (tmp_path / "none").exists()
