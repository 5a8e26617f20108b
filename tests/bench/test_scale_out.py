"""Predictions for large models: a step's terms, the tables, and that the page holds them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import scale_out
from bench.cli import main
from bench.commands.scaling import fill, memory_table
from bench.point import ROUTERS, PointSpec
from bench.scale_out import TERMS, Instance, fitting, instances, terms_of
from engines.core.config import MODELS
from engines.core.errors import UserError
from engines.execution.cost import StepCost, Work
from engines.execution.profile import load_profile

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
SERVER = Instance(MODELS["opt-175b"], load_profile("a100-80gb"), 8)
WORK = Work(prompt_tokens=90, decodes=100, groups=80, context_tokens=50_000, prompt_squares=40_000)


def table(name: str) -> list[str]:
    """The page's lines between a table's marks."""
    start, end = f"<!-- bench scaling: {name} -->\n", f"\n<!-- end of {name} -->"
    return PAGE.split(start)[1].split(end)[0].splitlines()


def seconds(instance: Instance) -> float:
    cost = StepCost(
        instance.model,
        instance.profile,
        tensor_parallel=instance.degree,
        block_size=16,
        python_host=True,
    )
    return cost.seconds(WORK)


@pytest.mark.parametrize("instance", fitting(), ids=lambda one: f"{one.model.name}-{one.degree}")
def test_terms_add_up_to_the_step(instance: Instance) -> None:
    terms = terms_of(instance, WORK)
    assert list(terms) == list(TERMS)
    assert sum(terms.values()) == pytest.approx(seconds(instance))
    assert (terms["link"] == pytest.approx(0, abs=1e-12)) == (instance.degree == 1)
    host = 0.004 * instance.degree + 2.5e-4 * WORK.groups + 3e-5 * WORK.decodes
    assert terms["host"] == pytest.approx(host)


def test_what_fits() -> None:
    assert len(list(instances())) == 24
    found = {(one.model.name, one.profile.name): one.degree for one in reversed(fitting())}
    assert found == {
        ("opt-66b", "a100-40gb"): 4,
        ("opt-66b", "a100-80gb"): 2,
        ("opt-66b", "h200"): 1,
        ("opt-175b", "a100-80gb"): 8,
        ("opt-175b", "h200"): 4,
    }
    assert SERVER.slots == 60_100
    assert SERVER.fleets == {}
    fleets = replace(SERVER, degree=2).fleets
    assert [(spec.replicas, spec.rate, spec.router) for spec in fleets.values()] == [
        (4, 4.0, router) for router in ROUTERS
    ]


def test_h200_takes_the_shares_that_the_a100_takes() -> None:
    """Of the data sheets: memory, arithmetic and NVLink."""
    a100, h200 = load_profile("a100-80gb"), load_profile("h200")
    for name, of_a100, of_h200 in (
        ("weight_bandwidth", 2.039e12, 4.8e12),
        ("copy_bandwidth", 2.039e12, 4.8e12),
        ("kv_bandwidth", 2.039e12, 4.8e12),
        ("flops", 3.12e14, 9.895e14),
        ("attention_flops", 3.12e14, 9.895e14),
        ("link_bandwidth", 3.0e11, 4.5e11),
    ):
        share = getattr(a100, name) / of_a100
        assert getattr(h200, name) / of_h200 == pytest.approx(share, rel=0.01), name
    for name in ("worker_overhead_s", "sequence_overhead_s", "link_latency_s", "pcie_latency_s"):
        assert getattr(h200, name) == getattr(a100, name)


def test_the_page_holds_every_instance() -> None:
    assert "\n".join(table("memory")) == memory_table()
    wanted = [f"| {one.model.name} | {one.degree} x {one.profile.name} |" for one in fitting()]
    for name in ("steps", "nodes"):
        rows = table(name)[2:]
        assert [row[: len(start)] for row, start in zip(rows, wanted, strict=True)] == wanted


def test_a_page_keeps_what_stands_outside_its_marks() -> None:
    page = "before\n<!-- bench scaling: a -->\nold\n<!-- end of a -->\nafter\n"
    assert fill(page, "a", "| new |") == page.replace("old", "| new |")
    assert fill(fill(page, "a", "x"), "a", "old") == page
    with pytest.raises(UserError, match="no place for the table 'b'"):
        fill(page, "b", "| new |")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command over one instance and a few replicas."""
    few = PointSpec(system="astra", rate=4.0, duration=60.0, replicas=2)
    monkeypatch.setattr(scale_out, "fitting", lambda: [SERVER])
    monkeypatch.setattr(
        scale_out, "crowd", lambda: [replace(few, router=router) for router in ROUTERS]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_page_says_what_the_command_prints(tmp_path: Path) -> None:
    words = ["scaling", "--quiet", "--artifacts", str(tmp_path)]
    printed = CliRunner().invoke(main, words)
    assert printed.exit_code == 0, printed.stderr
    memory, steps, nodes, crowd = (block.splitlines() for block in printed.stdout.split("\n\n"))
    assert memory == table("memory")
    for name, block in (("steps", steps), ("nodes", nodes)):
        assert block[:2] == table(name)[:2]
        assert block[2] in table(name), "run bench scaling --write docs/scaling.md"
    assert crowd[:2] == table("crowd")[:2]
    assert len(crowd) == 2 + len(ROUTERS)
    written = tmp_path / "page.md"
    written.write_text(PAGE, encoding="utf-8")
    assert CliRunner().invoke(main, [*words, "--write", str(written)]).exit_code == 0
    assert steps[2] in written.read_text(encoding="utf-8")


def test_a_term_without_limits_costs_nothing() -> None:
    """What the terms are measured by: a parameter that makes its part of the step vanish."""
    for name, free in TERMS.items():
        profile = replace(SERVER.profile, **free)  # type: ignore[arg-type]
        assert terms_of(replace(SERVER, profile=profile), WORK)[name] == 0
    everything = {key: value for free in TERMS.values() for key, value in free.items()}
    profile = replace(SERVER.profile, **everything)  # type: ignore[arg-type]
    assert seconds(replace(SERVER, profile=profile)) == 0
    assert not math.isnan(seconds(SERVER))
