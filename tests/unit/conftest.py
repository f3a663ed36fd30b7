"""Provides the bridge before test files import the engine, most of which needs it."""

from tests.unit import loading  # noqa: F401
