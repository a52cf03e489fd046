"""The MMNER dataset: readers of the field's formats, and the ``datasets`` builder."""

from .loading import load
from .mmner import MMNER, MMNERConfig
from .report import LoadReport, ReportPart, load_report
from .rows import MalformedRow

__all__ = ["MMNER", "LoadReport", "MMNERConfig", "MalformedRow", "ReportPart", "load", "load_report"]
