"""Evaluations of a bridge, source by source, as tables."""

from collections.abc import Mapping
from typing import Any

from bridges.reports.blocks import Block, Line, Prose, Section, Table
from bridges.reports.numbers import MISSING, UNBROKEN, estimate, figure, interval, share

OVERALL = (
    ("ce_dense", "cross-entropy of the dense model", ""),
    ("ce_sparse", "cross-entropy of the sparse model", ""),
    ("kl_dense_sparse", "KL(dense ‖ sparse)", "how far the sparse model's predictions are from the dense one's"),
    ("kl_dense_sparse_later", "… after the first position", "which is a sink in many pretrained models"),
    ("kl_mixed_paths", "KL on random mixed paths", "crossing between the models at random sites"),
    ("kl_unigram", "KL of unigram frequencies", "yardstick: a model that only knows how frequent tokens are"),
)
SITES = (
    ("nmse_encoder", "encoder NMSE"),
    ("nmse_encoder_later", "… after the first position"),
    ("nmse_decoder", "decoder NMSE"),
    ("nmse_decoder_later", "… after the first position"),
    ("nmse_decoder_ordinary", "… in ordinary channels"),
    ("kl_dense_to_sparse", "KL crossing dense → sparse"),
    ("kl_dense_to_sparse_later", "… after the first position"),
    ("kl_sparse_to_dense", "KL crossing sparse → dense"),
    ("kl_sparse_to_dense_later", "… after the first position"),
    ("rms_dense", "RMS of the dense stream"),
    ("rms_dense_later", "… after the first position"),
)


def bridge_section(evaluation: Mapping[str, Mapping[str, Any]]) -> Section:
    """All sources of an evaluation."""
    return Section("The bridge", "bridge", tuple(bridge_blocks(evaluation)))


def bridge_blocks(evaluation: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """One table over sources, one table of sites per source."""
    sources = list(evaluation)
    rows: list[list[Any]] = [
        [
            Line(label, note),
            *(Line(estimate(evaluation[s].get(key)), interval(evaluation[s].get(key))) for s in sources),
        ]
        for key, label, note in OVERALL
        if any(key in evaluation[s] for s in sources)
    ]
    rows.append(["nonzero weights of the sparse model", *(share(evaluation[s].get("density")) for s in sources)])
    rows.append(["tokens evaluated", *(figure(evaluation[s].get("tokens")) for s in sources)])
    blocks: list[Block] = [
        Prose(
            "A bridge translates the residual stream of the dense model into that of the sparse one (encoder) and "
            "back (decoder), site by site. The better it does, the more the sparse model's circuits can say about "
            "the dense model."
        ),
        Table.of(
            "Held-out text; cross-entropies and KL in nats/token, with 95 % intervals.", ("figure", *sources), rows
        ),
    ]
    for source in sources:
        sites = evaluation[source].get("sites", [])
        if sites:
            blocks.append(_sites(source, sites))
    return blocks


def _sites(source: str, sites: list[Mapping[str, Any]]) -> Table:
    columns = [(key, label) for key, label in SITES if any(key in site for site in sites)]
    rows = [
        [
            f"{figure(site.get('sparse_site'))}{UNBROKEN}↔{UNBROKEN}{figure(site.get('dense_site'))}",
            *(figure(site.get(key)) for key, _ in columns),
        ]
        for site in sites
    ]
    caption = (
        f"{source}: per aligned site (sparse ↔ dense; site i is the stream before sublayer i). NMSE: squared error "
        "over variance, 1 is no better than predicting the mean. KL in nats/token when the pass crosses to the "
        "other model at this site."
    )
    return Table.of(caption if rows else MISSING, ("site", *(label for _, label in columns)), rows)
