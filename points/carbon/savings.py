"""What an activity saves, in whole milligrams of CO2e: pure functions over a method's factors.

Integers throughout and rounded down, after the principle of conservativeness (保守性) of DB11/T 3043-2024: a sum of
many activities never claims more than was saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FactorSet:
    """A method's factors as a value: its id, and micrograms of CO2e saved per metre or per gram by mode or material."""

    method_id: str
    micrograms_per_unit: Mapping[str, int]


def saved_mg(micrograms_per_unit: int, quantity: int) -> int:
    """Milligrams that `quantity` metres or grams save: floor(micrograms_per_unit × quantity ÷ 1,000), never below 0."""
    return max(0, micrograms_per_unit * quantity // 1000)


def travel_saved_mg(method: FactorSet, mode: str, distance_m: int) -> int:
    """Milligrams that a trip of `distance_m` metres by `mode` saves; 0 for a mode without a factor.

    DB11/T 3043-2024: ER = BE − PE, for one trip saved = distance × (EF_baseline − EF_mode), where the baseline is the
    residents' usual mix of modes. The difference of the two is the factor; 1 g/km = 1,000 µg/m.
    """
    return saved_mg(method.micrograms_per_unit.get(mode, 0), distance_m)


def recycling_saved_mg(method: FactorSet, material: str, weight_g: int) -> int:
    """Milligrams that recycling `weight_g` grams of `material` saves; 0 for a material without a factor.

    US EPA WARM v16: saved = weight × factor, recycling against virgin manufacture; 1 kg/kg = 1,000,000 µg/g.
    """
    return saved_mg(method.micrograms_per_unit.get(material, 0), weight_g)
