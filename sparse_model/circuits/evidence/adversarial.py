"""Batch-shared adversarial ablation: the worst subset of the other nodes to remove, one choice for all prompts.

The search is `circuits.adversary`. Complete ablation is one point; a circuit whose removals cancel each other fails at others.
"""

from dataclasses import dataclass

from foundation.statistics import Estimate
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.adversary import adversarial_loss
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Outcome, Subject
from sparse_model.tasks.loss import logit_difference


@dataclass(frozen=True)
class Adversarial(Finding):
    """Losses in nats (chance 0.693) with a subset of the nodes outside the circuit removed."""

    adversarial_loss: Estimate
    """the worst subset found"""
    complete_loss: float
    """all of them"""
    random_loss: float
    """random halves of them, mean"""
    whole_loss: float
    """none of them"""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"The worst subset of other nodes to remove brings the loss to {self.adversarial_loss}, removing all of them to "
            f"{self.complete_loss:.3f}, random halves to {self.random_loss:.3f}."
        )


def adversarial(subject: Subject, batch_pairs: int = 32) -> Adversarial:
    """Measure it on the subject's first pairs, one batch of them: the search is the dearest of all checks."""
    pairs = subject.pairs.select(slice(0, batch_pairs))
    circuit, within = subject.circuit, subject.circuit.within(subject.model)
    found = adversarial_loss(within, circuit.keep, circuit.values, pairs, batch_pairs, seed=subject.seed)
    batch, (subset,) = pairs.prompts(), found.ablated
    tap = Ablate({name: ~mask for name, mask in subset.items()}, circuit.values)
    logits = final_logits(within, batch.tokens, batch.last, tap).detach()
    worst = Outcome(logit_difference(logits, batch.answer, batch.other), pairs.template)
    return Adversarial(worst.loss_estimate(), found.complete, found.random, found.whole)


CHECK = Check(70, lambda asked: adversarial(asked.subject))
