"""Four nodes that several stories share: what one story writes is nothing to another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net.harness import Net

COUNTRIES = {"alder": "XA", "birch": "CN", "cedar": "PL", "dogwood": "TR"}


@pytest.fixture(scope="session")
def quartet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Alder, birch in China, cedar in Poland and dogwood in Turkey, each linked with each."""
    with Net(tmp_path_factory.mktemp("quartet")) as net:
        for key, country in COUNTRIES.items():
            net.make(key, node__country=country)
        net.start(*COUNTRIES)
        net.pair(*((a, b) for a in COUNTRIES for b in COUNTRIES if a < b))
        net.wait_linked(*COUNTRIES)
        yield net
        net.check_journals()
