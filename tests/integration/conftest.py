"""One local Ray for all tests that run in this process; those with settings of their own start one afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ops.cluster import ray_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share Ray come before those of this folder that do not, whose modules then need none beside it."""
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if here in item.path.parents]
    ordered = sorted(
        (items[place] for place in places), key=lambda item: "ray" not in getattr(item, "fixturenames", ())
    )
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """A Ray that was started with this process's environment and folder; `fresh_ray` heeds what they are now."""
    with ray_cluster():
        yield
