"""The result of a validation as a file: sealed, and checked when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from bench.records import RecordError, read_record
from engines.core.errors import UserError

FILE, SAMPLES, PICTURE = "validation.json", "validation.csv", "validation.png"
FORMAT = 2


class ValidationRecord(TypedDict):
    """What `bench validate` found; errors and noise are shares.

    Predictions are told how much slower the machine was than when its profile was measured
    (`slowness` of a point, by `engines.execution.pulse`); those called steady are not.
    """

    format: int
    model: str
    backend: str
    device: str
    dtype: str
    short: bool
    profile: dict[str, str]
    noise: dict[str, float]
    points: list[dict[str, Any]]
    sustained: list[dict[str, Any]]
    wrong_orders: list[str]
    aims: list[dict[str, Any]]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A validation, its folder's name and its figure."""

    name: str
    record: ValidationRecord
    png: bytes

    @property
    def title(self) -> str:
        """The model and its type."""
        return f"{self.record['model']} in {self.record['dtype']}"

    @property
    def summary(self) -> str:
        """Where it was measured, the sustained rates, and whether the systems' order is right."""
        found, wrong = [], self.record["wrong_orders"]
        for row in self.record["sustained"]:
            measured, predicted = (
                f"{sign}{row[name]:.3g}"
                for sign, name in zip(row["bounds"], ("measured", "predicted"), strict=True)
            )
            found.append(f"{row['system']} {measured} req/s, predicted {predicted}")
        sustained = f" Sustained rates: {'; '.join(found)}." if found else ""
        order = f" The order of these is wrong for {', '.join(wrong)}." if wrong else ""
        return f"On {self.record['device']}: {len(self.record['points'])} points.{sustained}{order}"


def read_validation(root: Path) -> ValidationRecord:
    """Read the result in a directory; raises UserError if it cannot be trusted."""
    try:
        record = read_record(root / FILE, ValidationRecord, expected_format=FORMAT)
    except RecordError as error:
        raise UserError(f"{root}: {error}: remove it, and validate again") from None
    return cast(ValidationRecord, record)


def find_validations(artifacts: Path) -> list[Found]:
    """The validations made here, or else those that came with the project, by name."""
    own = sorted((artifacts / "validation").glob(f"*/{FILE}"))
    shipped = sorted(Path("artifacts", "reference").glob(f"cpu/*/{FILE}"))
    return [
        Found(path.parent.name, read_validation(path.parent), _picture(path.parent))
        for path in own or shipped
    ]


def _picture(root: Path) -> bytes:
    path = root / PICTURE
    return path.read_bytes() if path.is_file() else b""
