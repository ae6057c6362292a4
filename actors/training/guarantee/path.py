"""Candidates of thresholds, from strict to loose, made on images that none of them is tested on.

Shape suffix: V vectors of thresholds, E exits before full depth.
"""

import numpy as np

from actors.training.guarantee.recording import Recorded, Thresholds
from actors.training.thresholds import CLOSED, thresholds_at_risk

_RISKS = (0.0, *np.geomspace(1e-4, 0.3, 36).tolist())  # of a token that leaves, per exit
_TIGHTER = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of the room to 1 that the first risk leaves


def path_of(recorded: Recorded, exits: tuple[int, ...]) -> tuple[Thresholds, ...]:
    """Return vectors of thresholds for some of the recorded exits, full depth the last; none is higher than in the
    vector before it, and in the first one all are closed.

    A few are stricter than what is right for every recorded token, as the next image may bring one that is not.
    """
    columns = tuple(recorded.exits.index(layer) for layer in exits)
    rough_VE = np.array([thresholds_at_risk(recorded.recording, risk, columns) for risk in _RISKS])
    open_E, safe_E = rough_VE[0] <= 1, rough_VE[0]
    tight = [np.where(open_E, 1 - share * (1 - safe_E), CLOSED) for share in _TIGHTER]
    every_VE = np.minimum.accumulate(np.stack([np.full(len(exits) - 1, CLOSED), *tight, *rough_VE]), axis=0)
    return tuple(dict.fromkeys(tuple(map(float, vector_E)) for vector_E in every_VE))
