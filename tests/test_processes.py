from __future__ import annotations

import sys

from processes import alive, command_of, descendants, started, the_one, wait_until

FORKING = "import os; os.fork(); os.write(1, b'two\\n'); import time; time.sleep(600)  # marker"


def test_a_copy_that_has_not_become_another_program_yet_is_not_meant() -> None:
    with started(
        [sys.executable, "-c", f"import os; os.fork() or exec({FORKING!r}); os.wait()"]
    ) as p:
        assert p.stdout is not None
        assert [p.stdout.readline() for _ in range(2)] == ["two\n"] * 2
        below = descendants(p.pid)
        assert len(below) == 2
        victim = the_one(below, "marker")
        assert set(descendants(victim)) == set(below) - {victim}
    wait_until(lambda: not any(map(alive, below)), "the group to end with the block")
    assert command_of(p.pid) == ""
