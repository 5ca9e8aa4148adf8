"""Learning masks: seeds in one pass are the seeds alone and the plain definition; what each signal ablates."""

import pytest
import torch

from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.adversary import ablate_subset, ascend
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.masks import NodeMasks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.loss import binary_loss

QUICK = {"steps": 8, "batch_pairs": 4, "k_coef": 5e-3, "ramp": 0.0, "lr": 0.05}


def kept(masks: NodeMasks, place: int) -> dict[str, list[bool]]:
    return {name: (score > 0).tolist() for name, score in masks.scores(place).items()}


@pytest.mark.parametrize("signal", ["complete", "random", "adversarial"])
def test_seeds_trained_at_once_find_the_masks_they_find_alone(known, signal: str) -> None:
    prompts, config = Prompts(known.model, known.train), PruneConfig(signal=signal, adversary_steps=2, **QUICK)
    together = learn_masks(prompts, known.values, config, (0, 1, 2))
    # the adversary takes signs, which rounding decides where a gradient is near zero; one step moves a mask by up to 0.03
    closeness = 0.03 if signal == "adversarial" else 2e-3
    for place, seed in enumerate((0, 1, 2)):
        alone = learn_masks(prompts, known.values, config, (seed,))
        assert kept(together, place) == kept(alone, 0)
        for name, score in together.scores(place).items():
            torch.testing.assert_close(score, alone.scores(0)[name], atol=closeness, rtol=0)
    assert kept(together, 0) != kept(together, 1)


def test_learning_is_the_plain_definition_step_by_step(known) -> None:
    """The same steps, one prompt row per token and the whole model under a tap."""
    config = PruneConfig(**QUICK)
    found = learn_masks(Prompts(known.model, known.train), known.values, config, (7,))
    masks = NodeMasks(known.model.config, config.tied, config.init_noise, config.init_bias, (7,))
    optimizer = torch.optim.AdamW(
        masks.parameters(), lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(7)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(step + 1, 1 - step / config.steps)
        batch = known.train.select(
            torch.randperm(len(known.train), generator=generator)[: config.batch_pairs]
        ).prompts()
        keep = masks.keep(config.temperature)
        tap = Ablate({name: mask[0] for name, mask in keep.items()}, known.values)
        loss = binary_loss(final_logits(known.model, batch.tokens, batch.last, tap), batch.answer, batch.other)
        price = config.k_coef * min(1.0, step)
        optimizer.zero_grad()
        (loss + price * masks.kept(keep)[0]).backward()
        torch.nn.utils.clip_grad_norm_(masks.parameters(), config.gradient_norm)
        optimizer.step()
        masks.clamp()
    for name, score in masks.scores(0).items():
        torch.testing.assert_close(found.scores(0)[name], score, atol=2e-3, rtol=0)


def test_a_price_on_nodes_removes_them(known) -> None:
    prompts = Prompts(known.model, known.train)

    def number(price: float) -> float:
        masks = learn_masks(prompts, known.values, PruneConfig(**{**QUICK, "lr": 0.1, "k_coef": price}), (0,))
        return masks.kept(masks.keep(1.0)).item()

    assert number(0.1) < number(0.0)


def test_only_removed_nodes_of_the_subset_are_ablated_and_free_ones_have_no_gradient() -> None:
    keep = {"x": torch.tensor([[1.0, 1.0, 0.0, 0.0]], requires_grad=True)}
    alpha = {"x": torch.tensor([[0.9, 0.1, 0.9, 0.1]])}
    effective = ablate_subset(keep, alpha)["x"]
    assert effective.tolist() == [[1.0, 1.0, 0.0, 1.0]]
    effective.sum().backward()
    assert keep["x"].grad.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_ascending_raises_the_loss_of_the_ablated_subset(known) -> None:
    prompts = Prompts(known.model, known.train)
    rows, generator = prompts.rows(), torch.Generator().manual_seed(0)
    keep = {name: torch.zeros(1, len(value)) for name, value in known.values.items()}
    alpha = {name: torch.rand(mask.shape, generator=generator) for name, mask in keep.items()}
    losses = []
    for _ in range(6):
        alpha, loss = ascend(prompts, rows, keep, alpha, known.values, 0.25)
        losses.append(float(loss))
    assert max(losses[1:]) > 1.2 * losses[0]
