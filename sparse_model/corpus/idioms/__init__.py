"""The twenty idioms, one small family per file."""

from sparse_model.corpus.fragment import Idiom
from sparse_model.corpus.idioms import conditions, containers, files, functions, loops, quotes

IDIOMS: dict[str, Idiom] = {
    idiom.name: idiom for family in (quotes, containers, functions, loops, conditions, files) for idiom in family.IDIOMS
}
