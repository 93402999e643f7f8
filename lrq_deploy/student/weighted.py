"""All layers of a frozen student that multiply by weights, whatever they are stored as."""

from lrq_deploy.student.frozen import FloatLayer, FrozenLayer, QuantizedModel
from lrq_deploy.student.weight_only import WeightOnlyLayer

__all__ = ["WeightedLayer", "weight_only_layers", "weighted_layers"]

WeightedLayer = FrozenLayer | FloatLayer | WeightOnlyLayer


def weighted_layers(model: QuantizedModel) -> dict[str, WeightedLayer]:
    """Every layer by name, in graph order."""
    return model.modules_of(WeightedLayer)


def weight_only_layers(model: QuantizedModel) -> dict[str, WeightOnlyLayer]:
    """Layers of INT4 weights and float activations by name, in graph order."""
    return model.modules_of(WeightOnlyLayer)
