"""A sensitivity table as files: of the ``sensitivity`` command and of bundles with mixed widths."""

from typing import TYPE_CHECKING

from lrq_deploy.stored_schema import document_bytes

if TYPE_CHECKING:
    from lrq_deploy.sensitivity import SensitivityTable

__all__ = ["JSON_NAME", "PICTURE_NAME", "sensitivity_files"]

JSON_NAME = "sensitivity.json"
PICTURE_NAME = "sensitivity.png"


def sensitivity_files(table: "SensitivityTable") -> dict[str, bytes]:
    """The table as JSON and as a picture, by file name."""
    from lrq_deploy.export.measures.sensitivity_picture import sensitivity_png

    return {JSON_NAME: document_bytes(table.to_json()), PICTURE_NAME: sensitivity_png(table)}
