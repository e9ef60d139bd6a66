"""Recipes: every run of the paper on Criteo, and strong public baselines, by name."""

from collections.abc import Callable
from functools import partial

from robe.checks import similar
from robe.recipes import baselines, kaggle, terabyte
from robe.recipes.recipe import ROWS as ROWS
from robe.recipes.recipe import Recipe as Recipe
from robe.recipes.recipe import run_recipe as run_recipe
from robe.recipes.recipe import scaled as scaled

_MAKERS: list[Callable[[], Recipe]] = [
    *(partial(make, z) for make in kaggle.MODELS.values() for z in (None, *kaggle.BLOCK_SIZES)),
    *(partial(terabyte.dlrm, z) for z in (None, *terabyte.BLOCK_SIZES)),
    *(partial(baselines.baseline, model, c) for model in baselines.MODELS for c in (None, *baselines.COMPRESSIONS)),
]
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (make() for make in _MAKERS)}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ValueError: there is none; the nearest names are in the message.
    """
    if name not in RECIPES:
        close = similar(name, RECIPES, 3)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise ValueError(f"recipe: unknown {name!r}; {hint}`robe recipe list` has all {len(RECIPES)} names")
    return RECIPES[name]
