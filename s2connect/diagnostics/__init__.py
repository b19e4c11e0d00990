"""Diagnostics: checks of a machine, an endpoint and its peers, and of recorded messages. They return findings."""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect.diagnostics.doctor import examine
    from s2connect.diagnostics.findings import Finding, Layer, Verdict, passes

__all__ = ["Finding", "Layer", "Verdict", "examine", "passes"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s2connect.diagnostics.doctor": "examine",
        "s2connect.diagnostics.findings": "Finding Layer Verdict passes",
    },
)
