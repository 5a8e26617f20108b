"""Every figure of the paper, read from the TOML files in `data`, and the names of all its parts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from importlib import resources
from typing import Any

from bench.experiments.model import Calibration, Claim, Curve, Figure, Panel, Selection
from engines.core.config import System
from engines.core.errors import unknown_name

Table = Mapping[str, Any]


def _read(name: str) -> Table:
    path = resources.files("bench.experiments").joinpath("data", f"{name}.toml")
    table: Table = _frozen(tomllib.loads(path.read_text(encoding="utf-8")))
    return table


def _frozen(value: Any) -> Any:
    """The value with its lists as tuples: records are not changed."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _entries(tables: Iterable[Table]) -> Iterator[Table]:
    """The tables; what stands beside `each` holds for every one of its entries.

    An entry adds to the tables that it shares: its `args` stand beside the others'.
    """
    for table in tables:
        shared = {key: value for key, value in table.items() if key != "each"}
        for entry in table.get("each", ({},)):
            added = {k: {**shared.get(k, {}), **v} for k, v in entry.items() if type(v) is dict}
            yield {**shared, **entry, **added}


def _figure(name: str, table: Table, servers: Table) -> Figure:
    """Build a figure; its server and settings hold for all its panels."""
    fields = {k: v for k, v in table.items() if k not in ("server", "settings", "short_settings")}
    fields["panels"] = tuple(_panel(p, table, servers) for p in _entries(table.get("panels", ())))
    fields["claims"] = tuple(map(_claim, _entries(table.get("claims", ()))))
    return Figure(name=name, **fields)


def _panel(table: Table, figure: Table, servers: Table) -> Panel:
    server = servers[table.get("server") or figure["server"]]
    return Panel(
        name=table["name"],
        title=table["title"],
        curves=tuple(curve for c in table["curves"] for curve in _curves(c)),
        settings={**server, **figure.get("settings", {}), **table.get("settings", {})},
        short_settings={**figure.get("short_settings", {}), **table.get("short_settings", {})},
    )


def _curves(table: Table) -> Iterator[Curve]:
    """A curve, or with `vary` one for each value of a setting, whose label has a place for it."""
    fields = {**table, "system": System(table["system"])}
    varied = fields.pop("vary", {})
    if not varied:
        yield Curve(**fields)
    for setting, values in varied.items():
        for value in values:
            label = fields["label"].format(value) if "label" in fields else None
            yield Curve(**{**fields, "settings": {setting: value}, "label": label})


def _claim(fields: Table) -> Claim:
    """A claim. Its numbers are text, as the paper prints them: "8" is not as exact as "8.0"."""
    printed = fields["paper"]
    ends = [Decimal(end) for end in (printed if isinstance(printed, tuple) else (printed,))]
    paper = tuple(map(float, ends)) if len(ends) > 1 else float(ends[0])
    halves = [5 * 10.0 ** (int(end.as_tuple().exponent) - 1) for end in ends]
    fitted = [c for c in CALIBRATIONS if c.claims and fields["path"].startswith(c.claims)]
    return Claim(
        **{
            **fields,
            "paper": paper,
            "half_units": (halves[0], halves[-1]),
            "calibrated": "; ".join(f"{c.parameter} ({c.where})" for c in fitted),
        }
    )


_PAPER = _read("paper")
CALIBRATIONS = tuple(Calibration(**table) for table in _PAPER["calibrations"])
FIGURES = {name: _figure(name, _read(name), _PAPER["servers"]) for name in _PAPER["figures"]}
# Parts of a figure under names of their own: the figure, and what its panels' names start with.
PARTS: dict[str, tuple[str, str]] = {
    name: (part["figure"], part["panels"]) for name, part in _PAPER["parts"].items()
}
# Several figures, whole or in part, under one name.
GROUPS: dict[str, tuple[str, ...]] = {**_PAPER["groups"], "all": tuple(FIGURES)}
# Claims about memory by shape: they need no run.
TABLE1_CLAIMS = tuple(map(_claim, _entries(_PAPER["table1"])))


def names() -> list[str]:
    """Every name that `find` knows: groups and figures first, then parts and panels."""
    panels = [panel.name for figure in FIGURES.values() for panel in figure.panels]
    return list(dict.fromkeys([*GROUPS, *FIGURES, *PARTS, *panels]))


def find(name: str) -> Selection:
    """What `name` stands for: a figure, a part of one, a panel or a group of figures.

    Raises UserError naming the nearest names if there is none.
    """
    found = [_part(member) for member in GROUPS.get(name, (name,))]
    figures = tuple(figure for figure in found if figure is not None)
    if len(figures) < len(found):
        raise unknown_name("figure", name, names())
    return Selection(name, figures)


def find_panel(name: str) -> Panel:
    """The panel called `name`, which must exist."""
    (figure,) = find(name).figures
    (panel,) = figure.panels
    return panel


def _part(name: str) -> Figure | None:
    """A figure, or one with those of its panels only that the name stands for; None if unknown."""
    if name in FIGURES:
        return FIGURES[name]
    if name in PARTS:
        whole, prefix = PARTS[name]
        chosen = [p for p in FIGURES[whole].panels if p.name.startswith(prefix)]
        return replace(FIGURES[whole], name=name, panels=tuple(chosen))
    for figure in FIGURES.values():
        for panel in figure.panels:
            if panel.name == name:
                return replace(figure, name=name, panels=(panel,))
    return None
