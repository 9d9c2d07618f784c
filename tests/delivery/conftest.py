"""The digits models, exported as the export tests do it."""

from tests.export.conftest import export_into, samples

__all__ = ["export_into", "samples"]
