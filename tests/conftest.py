"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest

from tests.factories import TestNode, make_node


@pytest.fixture(scope="session")
def alder() -> TestNode:
    return make_node("alder")


@pytest.fixture(scope="session")
def birch() -> TestNode:
    return make_node("birch")


@pytest.fixture(scope="session")
def cedar() -> TestNode:
    return make_node("cedar")
