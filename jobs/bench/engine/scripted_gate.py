"""The engine's gate with its verdict replaced by a script. The real gate runs and is paid for."""

from dataclasses import replace

from actors.engine.batch import Batch, Emission
from actors.engine.exit_gate import ExitGate, ExitStates, Verdict
from jobs.bench.engine.scripts import Depths

THRESHOLD = 0.5  # of every exit: scripted confidences are 0 or 1


class ScriptedGate:
    """A token leaves at the exit its script names; which token it is, the model says."""

    def __init__(self, judge: ExitGate, depths: Depths) -> None:
        self._judge, self._depths = judge, depths

    def judge(self, batch: Batch, states: ExitStates) -> Verdict:
        verdict = self._judge.judge(batch, states)
        confidences = [
            float(self._depths[sequence.request.request_id][sequence.position] <= batch.segment)
            for sequence in batch.sequences
        ]
        return replace(verdict, confidences=confidences)

    def emit(self, batch: Batch, verdict: Verdict, leaves: list[bool]) -> Emission:
        return self._judge.emit(batch, verdict, leaves)

    def full_depth_tokens(self, batch: Batch, states: ExitStates) -> list[int]:
        return self._judge.full_depth_tokens(batch, states)
