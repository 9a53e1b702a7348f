"""Google's emulator, started once."""

from tests.migration.emulator import emulator

__all__ = ["emulator"]
