"""The version that a stored document states of itself."""

from lrq_deploy.errors import BundleError

__all__ = ["OUTDATED", "check_schema"]

OUTDATED = "use the lrq-deploy version that wrote the bundle, or a newer one"


def check_schema(
    what: str, stated: object, readable: tuple[int, ...], outdated: str = OUTDATED
) -> None:
    """Refuse a document of a version that is not read here.

    Args:
        what: the document, in the words of the error.
        stated: its ``schema_version``.
        readable: versions that are read.
        outdated: the remedy.

    Raises:
        BundleError: ``stated`` is none of them.
    """
    if stated not in readable:
        raise BundleError(
            f"{what} must have schema_version {' or '.join(map(str, readable))}",
            repr(stated),
            outdated,
        )
