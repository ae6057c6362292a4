"""Bisection: exactly the deadly rows are condemned, innocents never, and it always ends."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops.crash_log import MAX_ATTEMPTS, CrashLog


def run_until_done(
    log: CrashLog, num_rows: int, deadly: set[int], shared_deaths: int = 0
) -> tuple[set[int], set[int], int]:
    """A worker that dies at deadly rows; gives the rows run in the last attempt, the condemned ones, the deaths."""
    deaths = 0
    while True:
        attempt = log.begin("s", 0, num_rows)
        finished: set[int] = set()
        died = not attempt.alone and shared_deaths > deaths
        for piece in attempt.pieces:
            rows = set(range(*piece))
            if attempt.alone:
                log.enter("s", 0, piece)
            if died or rows & deadly:
                died = True
                break
            finished |= rows
            if attempt.alone:
                log.leave("s", 0)
        if not died:
            log.done("s", 0)
            return finished, set(attempt.condemned), deaths
        deaths += 1
        assert deaths < 3 * MAX_ATTEMPTS


@given(num_rows=st.integers(0, 300), data=st.data())
def test_only_deadly_rows_are_condemned(num_rows: int, data: st.DataObject) -> None:
    rows = st.sets(st.integers(0, num_rows - 1), max_size=4) if num_rows else st.just(set())
    deadly = data.draw(rows)
    finished, condemned, deaths = run_until_done(CrashLog(), num_rows, deadly)
    assert condemned == deadly
    assert finished == set(range(num_rows)) - deadly
    assert deaths <= 2 + 11 * len(deadly)


def test_a_chunk_that_died_in_bad_company_is_cleared() -> None:
    finished, condemned, _ = run_until_done(CrashLog(), 10, set(), shared_deaths=2)
    assert (finished, condemned) == (set(range(10)), set())


def test_a_chunk_full_of_deadly_rows_ends_with_all_of_them_condemned() -> None:
    finished, condemned, deaths = run_until_done(CrashLog(), 256, set(range(256)))
    assert (finished, condemned) == (set(), set(range(256)))
    assert deaths <= MAX_ATTEMPTS + 2


def test_a_finished_chunk_is_forgotten() -> None:
    log = CrashLog()
    run_until_done(log, 4, {1})
    assert log.begin("s", 0, 4).number == 1


def test_attempts_are_counted_until_a_chunk_comes_to_its_end() -> None:
    log = CrashLog()
    for _ in range(3):
        log.begin("s", 1, 0)
    log.begin("s", 2, 0)
    log.done("s", 2)
    assert log.attempts("s", [0, 1, 2]) == [0, 3, 0]
