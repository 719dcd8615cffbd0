"""Keys name what comes out of a run, not how it was computed."""

import pytest
from pydantic import ValidationError

from hubinit.specs import CalibrationSpec, MethodSpec, ModelSpec, RunSpec, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 << 30), ("1.5 GB", 1_500_000_000), ("512 kib", 512 << 10), ("4096", 4096), ("8B", 8), (7, 7)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size
    assert CalibrationSpec(memory_budget=text).memory_budget == size


@pytest.mark.parametrize("text", ["much", "2 TB", "-1GB", "GiB", "0", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        CalibrationSpec(memory_budget=text)


def test_a_memory_budget_changes_no_key_and_survives_the_way_to_a_worker() -> None:
    def run(**settings: object) -> RunSpec:
        return RunSpec(
            model=ModelSpec(id="a/b"),
            method=MethodSpec(name="filet"),
            rank=8,
            alpha=16,
            calibration=CalibrationSpec(**settings),
        )

    plain, held = run(), run(memory_budget="1GiB")
    assert held.key == plain.key
    assert "memory_budget" not in held.canonical_json()
    assert run(samples=1).key != plain.key
    again = RunSpec.model_validate_json(held.model_dump_json())
    assert again.calibration is not None
    assert again.calibration.memory_budget == 1 << 30
