"""A run as one page that opens offline, as `summary.json`, and as a table for a terminal."""

from pathlib import Path

from raybd.files import write_whole
from raybd.registry import write_json
from raybd.report.contents import Examples, ReportInput
from raybd.report.tables import search_counts, summarise, table_rows

__all__ = ["Examples", "ReportInput", "search_counts", "summarise", "table_rows", "write"]


def write(run: ReportInput, folder: Path) -> Path:
    """Write `report.html` and `summary.json` into `folder` and return the page's path.

    Both replace what was there, each in one step, so that a reader never meets half a page.
    """
    from raybd.report.page import html  # plotly and the zoos: only a page needs them, a table does not

    page = html(run)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summarise(run))
    path = folder / "report.html"
    write_whole(path, page)
    return path
