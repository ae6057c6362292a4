"""Counters that wrap, vanish or are not there; and the sum over the starts of a run."""

from pathlib import Path

import pytest

from pipeline.ops.energy import EnergyMeter, nvml_counters
from pipeline.output.run_record import _total_energy

WH_UJ = 3_600_000_000


def package(rapl: Path, name: str, energy_uj: int, wraps_at: int = 10 * WH_UJ) -> None:
    folder = rapl / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")


def test_packages_and_gpus_are_added_up(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 5 * WH_UJ)
    package(tmp_path, "intel-rapl:1", 9 * WH_UJ)
    package(tmp_path, "intel-rapl:0:0", 1 * WH_UJ)  # a part of the first
    package(tmp_path, "intel-rapl-mmio:0", 1 * WH_UJ)  # the first once more
    gpu_mj = [1_000, 0]
    meter = EnergyMeter(tmp_path, lambda: list(gpu_mj))
    assert meter.source == "2 CPU packages (RAPL) and 2 GPUs (NVML) of the machine, with all that ran on it"
    assert meter.read_wh() == 0
    package(tmp_path, "intel-rapl:0", 6 * WH_UJ)
    package(tmp_path, "intel-rapl:1", 1 * WH_UJ)  # wrapped at 10
    package(tmp_path, "intel-rapl:0:0", 7 * WH_UJ)
    gpu_mj[:] = [1_000 + 3_600_000, 7_200_000]
    assert meter.read_wh() == pytest.approx(1 + 2 + 1 + 2)
    package(tmp_path, "intel-rapl:1", 9 * WH_UJ)
    assert meter.read_wh() == pytest.approx(6 + 8)


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    nothing = EnergyMeter(tmp_path / "nowhere", list)
    assert (nothing.source, nothing.read_wh()) == (None, None)
    package(tmp_path, "intel-rapl:0", 5)
    meter = EnergyMeter(tmp_path, list)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.read_wh() is None
    package(tmp_path, "intel-rapl:0", 7)
    assert meter.read_wh() is None, "a gap cannot be filled"


def test_a_gpu_that_goes_away_leaves_the_sum_unknown(tmp_path: Path) -> None:
    gpu_mj = [5]
    meter = EnergyMeter(tmp_path, lambda: list(gpu_mj))
    gpu_mj.clear()
    assert meter.read_wh() is None


def test_reading_gpus_never_fails() -> None:
    assert all(energy_mj >= 0 for energy_mj in nvml_counters()())


def test_a_run_knows_its_energy_if_every_start_does() -> None:
    one, other = {"wh": 1.5, "source": "1 GPU"}, {"wh": 2.0, "source": "1 CPU package"}
    assert _total_energy([one, one]) == {"wh": 3.0, "source": "1 GPU"}
    assert _total_energy([one, None]) is None
    assert _total_energy([one, other]) is None
    assert _total_energy([]) is None
