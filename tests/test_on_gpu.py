"""The driver of what a GPU is needed for: whatever a step does, the others are measured."""

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import on_gpu

SCRIPTS = {
    "good": "write([{'what': 'a', 'value': 2.0, 'unit': 's'}])",
    "failing": "write([{'what': 'b', 'value': None, 'unit': ''}]); sys.exit(3)",
    "slow": "write([{'what': 'c', 'value': 1.0, 'unit': 's'}]); time.sleep(60)",
}
WRITE = (
    "import json, sys, time\nwrite = lambda rows: open(sys.argv[1], 'w').write(json.dumps(rows))\n"
)


def command(name: str, out: Path) -> list[str]:
    return [sys.executable, "-c", WRITE + SCRIPTS[name], str(out)]


@pytest.fixture
def found(tmp_path) -> dict:
    names = ("failing", "slow", "gpu only", "good")
    limits = {"slow": 1.5, "gpu only": 60}
    steps = [on_gpu.Step(n, limits.get(n, 60), needs_gpu=n == "gpu only") for n in names]
    begun = time.perf_counter()
    steps = on_gpu.carry_out(steps, tmp_path / "out.json", gpu=False, command=command)
    assert time.perf_counter() - begun < 30
    assert json.loads((tmp_path / "out.json").read_text())["steps"] == steps
    return {step["step"]: step for step in steps}


def test_a_step_that_fails_or_overruns_leaves_its_rows_and_the_next_begins(found):
    ended = {name: step["ended"] for name, step in found.items()}
    assert ended == {
        "failing": "failed with 3",
        "slow": "over 1.5 s",
        "gpu only": "not measured",
        "good": "done",
    }
    assert [step["rows"][0]["what"] for step in found.values() if step["rows"]] == ["b", "c", "a"]


def test_the_table_says_what_was_not_measured(found):
    text = on_gpu.table(list(found.values()))
    assert "gpu only     not measured" in text
    assert text.splitlines()[1].split() == ["b", "not", "measured"]
    assert text.splitlines()[-1].split() == ["a", "2", "s"]


def test_the_file_is_written_after_every_step(tmp_path, monkeypatch):
    file, seen = tmp_path / "out.json", []

    def one(step, *_):
        seen.append(len(json.loads(file.read_text())["steps"]) if file.exists() else 0)
        return {"step": step.name, "ended": "done", "seconds": 0.0, "rows": []}

    monkeypatch.setattr(on_gpu, "carried_out", one)
    on_gpu.carry_out([on_gpu.Step(str(n), 1) for n in range(3)], file)
    assert seen == [0, 1, 2]


def test_all_steps_together_take_eight_minutes_at_most():
    assert sum(step.limit for step in on_gpu.STEPS) <= 480
    assert {step.name for step in on_gpu.STEPS} == set(on_gpu.MEASURES)
