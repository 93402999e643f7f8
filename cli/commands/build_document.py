"""``--json`` of ``lrq-deploy build``."""

from typing import Any

__all__ = ["BUILD_SCHEMA", "print_document"]

BUILD_SCHEMA = 1


def print_document(values: dict[str, Any]) -> None:
    """Plain values of what was written, with the schema version first.

    Args:
        values: ``path`` among them.
    """
    from lrq_deploy.cli.reports.console import ReportConsole

    document = {"schema_version": BUILD_SCHEMA, **values, "path": str(values["path"])}
    ReportConsole().print_json(data=document)
