"""Loss terms at sites: every one has its weight, and only those with a weight are computed."""

from collections.abc import Callable

import torch

from bridges.bridge_config import BridgeConfig
from bridges.objective import BridgedObjective
from bridges.site_terms import TERMS, SiteTerms


def test_every_term_has_a_weight_among_the_settings_of_bridges() -> None:
    assert set(TERMS) == set(SiteTerms.model_fields)
    assert set(TERMS) <= set(BridgeConfig.model_fields)


def test_a_term_without_weight_is_not_computed(pair: Callable, tokens: torch.Tensor) -> None:
    models = pair()
    assert "nmse" in BridgedObjective(*models, BridgeConfig())(tokens, draw=0)
    without = BridgedObjective(*models, BridgeConfig(nmse=0))(tokens, draw=0)
    assert not set(TERMS) & set(without)
    assert without["loss"].isfinite()
