"""What the core may know of a runtime: which operators it executes in integers, and its limits."""

from dataclasses import dataclass

from lrq_deploy.scheme import IntegerRange

__all__ = ["PORTABLE", "TargetDescription"]


@dataclass(frozen=True)
class TargetDescription:
    """Limits that placement respects, so that the graph runs exactly as trained.

    Attributes:
        name: for reports.
        carrier_qmax: largest unsigned value that a non-negative tensor may take. 127 fits
            INT8 with zero point 0 (TensorRT), and products of pairs stay below 2**15 (x86
            without VNNI adds pairs of uint8 * int8 products in saturating 16 bits).
        pair_sum_limit: largest magnitude of the sum of two products of a stored activation
            and a weight that the runtime computes exactly.
    """

    name: str
    carrier_qmax: int = 127
    pair_sum_limit: int = 2**15 - 1

    def act_range(self, bits: int, signed: bool, symmetric: bool) -> IntegerRange:
        """Integers of an activation: signed two's complement, or unsigned from 0."""
        if signed and symmetric:
            return IntegerRange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        limit = self.carrier_qmax if symmetric else 255
        return IntegerRange(0, min(2**bits - 1, limit))

    def weight_range(self, bits: int, act: IntegerRange) -> IntegerRange:
        """Integers of a weight that meets activations of the range ``act``.

        Eight bits use -127..127, so that ``-q`` exists; fewer bits use every level. The carrier
        of an activation is unsigned and starts at 0, hence its maximum is ``levels - 1``.
        """
        largest = self.pair_sum_limit // (2 * (act.levels - 1))
        low = 2 ** (bits - 1) - 1 if bits == 8 else 2 ** (bits - 1)
        return IntegerRange(-min(low, largest), min(2 ** (bits - 1) - 1, largest))


PORTABLE = TargetDescription("portable")
"""The default: one table that ONNX Runtime (any CPU) and TensorRT execute alike."""
