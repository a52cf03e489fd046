"""The MMNER dataset: readers, the ``datasets`` builder, Parquet export, and the synthetic probe (``.probe``)."""

from .loading import load
from .mmner import MMNER, MMNERConfig
from .parquet import write_parquet
from .report import LoadReport, ReportPart, load_report
from .rows import MalformedRow

__all__ = ["MMNER", "LoadReport", "MMNERConfig", "MalformedRow", "ReportPart", "load", "load_report", "write_parquet"]
