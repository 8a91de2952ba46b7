"""The families of the lab world: procedurally generated tasks with answers that a program can check."""

from tapir_exp.lab.families.code import Bugs, Functions
from tapir_exp.lab.families.knowledge import Bits, Lists, Supposing, Weights
from tapir_exp.lab.families.language import Personas, Sentences, Spanish, Tenses
from tapir_exp.lab.families.math import Dials, Totals
from tapir_exp.lab.families.reasoning import Cups, Facing
from tapir_exp.lab.family import Family

FAMILIES: tuple[Family, ...] = (
    Dials(), Totals(), Facing(), Cups(), Functions(), Bugs(), Tenses(),
    Lists(), Weights(), Spanish(), Personas(), Supposing(), Sentences(), Bits(),
)  # fmt: skip
