"""Energy used, by this machine's own counters: RAPL for CPU packages, NVML for GPUs. What cannot be read is unknown.

The counters know machines, not processes: what else ran meanwhile is in them. They are of one machine, so a run on
several nodes has no meter.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

_RAPL = Path("/sys/class/powercap")
_JOULES_PER_WH = 3600.0


class EnergyMeter:
    """Counts from its construction on; read it more often than a counter wraps, which takes minutes at least."""

    def __init__(self, rapl: Path = _RAPL, gpus_mj: "Callable[[], list[int]] | None" = None) -> None:
        self._gpus_mj = nvml_counters() if gpus_mj is None else gpus_mj
        self._packages = {path: last for path in packages(rapl) if (last := _read(path / "energy_uj")) is not None}
        self._first_mj = self._gpus_mj()
        self._cpu_uj = 0
        self._failed = False

    @property
    def source(self) -> str | None:
        """What is counted; None if nothing is."""
        parts = [
            f"{count} {what}{'' if count == 1 else 's'} ({how})"
            for count, what, how in (
                (len(self._packages), "CPU package", "RAPL"),
                (len(self._first_mj), "GPU", "NVML"),
            )
            if count
        ]
        return f"{' and '.join(parts)} of the machine, with all that ran on it" if parts else None

    def read_wh(self) -> float | None:
        """Return the watt-hours since the start; None where nothing is counted or a counter can no longer be read."""
        for path, last in self._packages.items():
            now, wraps_at = _read(path / "energy_uj"), _read(path / "max_energy_range_uj")
            if now is None or (now < last and wraps_at is None):
                self._failed = True
                continue
            self._cpu_uj += now - last if now >= last else now - last + (wraps_at or 0)
            self._packages[path] = now
        gpus_mj = self._gpus_mj()
        if self._failed or len(gpus_mj) != len(self._first_mj) or self.source is None:
            return None
        gpu_mj = sum(now - first for now, first in zip(gpus_mj, self._first_mj, strict=True))
        return (self._cpu_uj / 1e6 + gpu_mj / 1e3) / _JOULES_PER_WH


def packages(rapl: Path) -> list[Path]:
    """Return the zones of whole CPU packages; their parts, and what a package also counts, are left out."""
    try:
        return sorted(path for path in rapl.iterdir() if re.fullmatch(r"intel-rapl:\d+", path.name))
    except OSError:
        return []


def nvml_counters() -> Callable[[], list[int]]:
    """A reader of every GPU's total energy in millijoules; of no GPU where there is no driver, or an older one."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return list
    count = ctypes.c_uint()
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return list
    handles = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            handles.append(handle)

    def read() -> list[int]:
        values = []
        for handle in handles:
            energy_mj = ctypes.c_ulonglong()
            if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy_mj)) == 0:
                values.append(energy_mj.value)
        return values

    return read


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
