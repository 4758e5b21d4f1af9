from __future__ import annotations

import copy

import pytest
import timm
import torch
from helpers.historical_inpainter import HistoricalInpainter
from helpers.learning import assert_learned, bars, inputs_of, train
from torch import Tensor

from scotoma.errors import UsageError
from scotoma.methods.base import Views
from scotoma.methods.intelligent_masking import IntelligentMasking
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.inpainting_decoders import to_pixels
from scotoma.rng import KeyedRNG

ONE_STEP = {"steps_per_episode": 1, "gamma": 0.0, "replay": 0, "epsilon_decay": 0.0, "epsilon_end": 0.0}


class Historical(IntelligentMasking):
    """With the published inpainter instead of an encoder of timm."""

    skips = False

    def __init__(self, *args: object, **arguments: object) -> None:
        super().__init__(*args, **arguments)
        self.historical = HistoricalInpainter(self.inputs.in_chans, self.inputs.image_size, self.skips)

    def inpaint(self, view: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        hidden = to_pixels(cells, view.shape[-1])
        return self.historical(view * (1 - hidden)), hidden


class HistoricalUNet(Historical):
    skips = True


def method_of(kind: type[IntelligentMasking] = IntelligentMasking, size: int = 16, **arguments: object) -> IntelligentMasking:
    torch.manual_seed(0)
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    inputs = Inputs(size, 1, (0.3,), (0.2,))
    return kind(encoder, inputs, **{"decoder_dim": 32, "cells": 6, "steps_per_episode": 3, **arguments}).train()


def images_of(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 1, 20, 20), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def views_of(method: IntelligentMasking, epoch: int = 0, n: int = 4) -> Views:
    return method.views(images_of(n), KeyedRNG(0, epoch, torch.arange(n)))


def block_of(corner: tuple[int, int], cells: int, block: int = 2) -> Tensor:
    mask = torch.zeros(cells, cells)
    mask[corner[0] : corner[0] + block, corner[1] : corner[1] + block] = 1
    return mask


def one_step(method: IntelligentMasking, views: Views, random: bool) -> tuple[Tensor, Tensor]:
    """The one-step case image by image: the inpainter's and the agent's loss."""
    view, cells, size = views["view"], method.cells, method.inputs.image_size
    q = method.agent(view, torch.zeros_like(view[:, :1]))
    holes, values = [], []
    for b in range(len(view)):
        corners = [(row, column) for row in range(cells - 1) for column in range(cells - 1)]
        if random:
            chosen = corners[max(range(len(corners)), key=lambda i: views["chance"][b, 0, i].item())]
        else:
            chosen = max(corners, key=lambda c: q[b, c[0], c[1]].item())
        holes.append(block_of(chosen, cells))
        values.append(q[b, chosen[0], chosen[1]])
    hidden = torch.nn.functional.interpolate(torch.stack(holes)[:, None], (size, size), mode="nearest")
    filled = method.inpaint(view, torch.stack(holes).flatten(1))[0]
    error = (filled - view) ** 2
    inpainting = (error * hidden).sum() / hidden.sum()
    temporal = torch.zeros(())
    for b in range(len(view)):
        reward = (error[b] * hidden[b]).sum().item() / hidden[b].sum().item()
        temporal = temporal + (values[b] - reward) ** 2 / len(view)
    return inpainting, temporal


@pytest.mark.parametrize(("kind", "size"), [(IntelligentMasking, 16), (Historical, 64), (HistoricalUNet, 64)])
def test_one_hide_without_future_is_the_published_case(kind: type[IntelligentMasking], size: int) -> None:
    """Random for the first fifth of the training, greedy after it; one optimiser for both here, one for each network there."""
    steps = 5
    ours = method_of(kind, size, **ONE_STEP)
    theirs = copy.deepcopy(ours)
    optimizer = torch.optim.Adam(ours.parameters(), 1e-3)
    agent = list(theirs.agent.parameters())
    others = [p for n, p in theirs.named_parameters() if not n.startswith("agent.")]
    adams = torch.optim.Adam(others, 1e-3), torch.optim.Adam(agent, 1e-3)
    for step in range(steps):
        views = views_of(ours, step, n=3)
        result = ours.loss(views, {})
        inpainting, temporal = one_step(theirs, views, random=step < 0.2 * steps)
        torch.testing.assert_close(result["inpainting"], inpainting.detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(result["temporal_difference"], temporal.detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(result["loss"], (inpainting + temporal).detach(), atol=1e-6, rtol=1e-6)
        optimizer.zero_grad()
        result["loss"].backward()
        for loss, adam in zip((inpainting, temporal), adams, strict=True):
            adam.zero_grad()
            loss.backward()
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if other.grad is not None:
                torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-5, msg=name)
        optimizer.step()
        for adam in adams:
            adam.step()
        ours.after_step((step + 1) / steps)
    assert ours.epsilon == 0


def test_no_gradient_crosses_between_the_networks() -> None:
    method = method_of(gamma=0.5)
    views = views_of(method)

    def gradients() -> dict[str, Tensor]:
        method.zero_grad()
        method.loss(views, {})["loss"].backward()
        return {n: p.grad.clone() for n, p in method.named_parameters() if p.requires_grad}

    both = gradients()
    for parameter in method.agent.parameters():  # another agent, and the same hides, as all are random yet
        torch.nn.init.normal_(parameter, std=0.1)
    other = gradients()
    for name in both:
        assert torch.equal(both[name], other[name]) is not name.startswith("agent."), name


def test_groups_are_the_inpainter_then_the_agent() -> None:
    method = method_of()
    agent = {id(p) for p in method.agent.parameters()}
    assert [all(id(p) in agent for p in g["params"]) for g in method.param_groups()] == [False, False, True, True]
    assert [any(id(p) in agent for p in g["params"]) for g in method.param_groups()] == [False, False, True, True]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"random_share": 0.2, "epsilon_decay": 0.0, "epsilon_end": 0.0}, [1, 1, 0, 0, 0, 0]),
        ({"random_share": 0.2, "epsilon_decay": 0.4, "epsilon_end": 0.1}, [1, 1, 1, 0.55, 0.1, 0.1]),
        ({"random_share": 0.0, "epsilon_decay": 0.0, "epsilon_end": 0.25}, [0.25] * 6),
    ],
)
def test_the_share_of_random_actions(arguments: dict[str, float], expected: list[float]) -> None:
    method = method_of(**arguments)
    found = [method.epsilon.item()]
    for progress in (0.1, 0.2, 0.4, 0.6, 1.0):
        method.after_step(progress)
        found.append(method.epsilon.item())
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_every_action_is_free_and_what_it_adds_is_new(epsilon: float) -> None:
    method = method_of(cells=4, steps_per_episode=3)  # 9 corners, of which two hides leave at least one
    actions = method.episode(views_of(method, n=40), torch.tensor(epsilon))
    before, added = method.holes(actions)
    for b in range(40):
        hidden = torch.zeros(4, 4)
        for t, action in enumerate(actions[b].tolist()):
            corner = divmod(action, 3)
            assert hidden[corner] == 0
            assert torch.equal(before[b, t].view(4, 4).float(), hidden)
            after = (hidden + block_of(corner, 4)).clamp(max=1)
            assert torch.equal(added[b, t].view(4, 4).float(), after - hidden)
            hidden = after


def test_random_actions_are_uniform_and_the_same_without_an_agent() -> None:
    agent, alone = method_of(), method_of(policy="random")
    views = views_of(agent, n=300)
    actions = agent.episode(views, torch.tensor(1.0))
    assert torch.equal(alone.episode(views, torch.tensor(0.0)), actions)
    counts = actions[:, 0].bincount(minlength=25)
    assert counts.shape == (25,) and ((counts - 12).square() / 12).sum() < 51  # chi-square, 24 degrees of freedom: p = 0.001
    assert alone.agent is None and set(alone.loss(views_of(alone), {})) == {"loss"}
    torch.testing.assert_close(alone.loss(views_of(alone), {})["loss"], agent.loss(views_of(agent), {})["inpainting"])


def q_of(method: IntelligentMasking, agent: torch.nn.Module, view: Tensor, hidden: Tensor) -> Tensor:
    """The values of one image (C, H, W) with cells (G, G) hidden: (G - 1, G - 1), -inf where there is no action."""
    size = method.inputs.image_size
    pixels = torch.nn.functional.interpolate(hidden[None, None], (size, size), mode="nearest")
    values = agent(view[None] * (1 - pixels), pixels)[0]
    return torch.where(hidden > 0, -torch.inf, values)[:-1, :-1]


@pytest.mark.parametrize("lessons", [[0, 1, 2, 0], [2, 2, 1, 1]])
@pytest.mark.parametrize("gamma", [0.0, 0.8])
def test_an_episode_is_that_of_a_loop(gamma: float, lessons: list[int]) -> None:
    """Greedy and random actions, rewards on what each hide added, targets by the target network; image by image."""
    method = method_of(gamma=gamma).eval()
    method.epsilon.fill_(0.4)
    if method.target is not None:
        for parameter in method.target.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    views, steps = views_of(method), method.steps
    view, size = views["view"], method.inputs.image_size
    with torch.no_grad():
        episodes, masks, greedy = [], [], 0
        for b in range(4):
            hidden, episode = torch.zeros(6, 6), []
            for t in range(steps):
                values = q_of(method, method.agent, view[b], hidden)
                if views["explore"][b, t] < 0.4:
                    free = [i for i in range(25) if hidden[divmod(i, 5)] == 0]
                    action = max(free, key=lambda i: views["chance"][b, t, i].item())
                else:
                    action, greedy = int(values.argmax()), greedy + 1
                after = (hidden + block_of(divmod(action, 5), 6)).clamp(max=1)
                episode.append((hidden, action, after))
                hidden = after
            episodes.append(episode)
            masks.append(hidden)
        assert 0 < greedy < 4 * steps
        filled, pixels = method.inpaint(view, torch.stack(masks).flatten(1))
        error = (filled - view).square()
        total = torch.zeros(())
        for b in range(4):
            t = lessons[b]
            hidden, action, after = episodes[b][t]
            new = torch.nn.functional.interpolate((after - hidden)[None, None], (size, size), mode="nearest")[0]
            target = (error[b] * new).sum() / new.sum()
            if t < steps - 1 and gamma:
                target = target + gamma * q_of(method, method.target, view[b], after).max()
            total = total + (q_of(method, method.agent, view[b], hidden).flatten()[action] - target).square() / 4
        result = method.loss(views | {"lesson": (torch.tensor(lessons) + 0.5) / steps}, {})
    torch.testing.assert_close(result["inpainting"], (error * pixels).sum() / pixels.sum())
    torch.testing.assert_close(result["temporal_difference"], total, rtol=1e-4, atol=1e-6)


def test_hidden_pixels_do_not_reach_the_inpainter() -> None:
    method = method_of().eval()
    view = views_of(method)["view"]
    cells = torch.rand(4, 36, generator=torch.Generator().manual_seed(0)) < 0.4
    noise = 3 * torch.randn(view.shape)
    with torch.no_grad():
        filled, hidden = method.inpaint(view, cells)
        assert torch.equal(method.inpaint(view + hidden * noise, cells)[0], filled)
        assert not torch.allclose(method.inpaint(view + (1 - hidden) * noise, cells)[0], filled, atol=1e-3)


def test_the_whole_image_counts_if_asked() -> None:
    method = method_of(whole=True).eval()
    views = views_of(method)
    with torch.no_grad():
        cells = method.holes(method.episode(views, method.epsilon))[1].any(1)
        error = (method.inpaint(views["view"], cells)[0] - views["view"]).square().mean()
        torch.testing.assert_close(method.loss(views, {})["inpainting"], error)


def test_the_replay_keeps_the_newest_and_gives_back_what_was_done() -> None:
    method = method_of(replay=10)
    seen = []
    for epoch in range(4):  # 16 episodes through 10 places
        views = views_of(method, epoch)
        seen.append((views["view"], method.episode(views, method.epsilon)))
        method.loss(views, {})
    replay, (view, actions) = method.replay, [torch.cat(x)[-10:] for x in zip(*seen, strict=True)]
    places = (torch.arange(6, 16)) % 10
    assert replay.count == 16
    assert torch.equal(replay.actions[places], actions)
    assert torch.equal(replay.views[places], view.half())
    found = replay.recall(torch.arange(30) / 30 + 1e-6)  # every hide of every episode once
    assert torch.equal(found[1], replay.actions.repeat_interleave(3, 0)) and torch.equal(found[3], torch.arange(3).repeat(10))
    assert torch.equal(found[0], replay.views.float().repeat_interleave(3, 0))
    assert torch.equal(found[2], replay.rewards.repeat_interleave(3, 0))
    assert replay.recall(torch.tensor([1 - 2**-24]))[3].item() == 2


def test_replaying_a_batch_is_learning_from_it() -> None:
    with_replay, without = method_of(replay=4, gamma=0.7), method_of(gamma=0.7)
    views = views_of(with_replay)
    views["view"] = views["view"].half().float()  # as it is kept
    direct = without.loss(views, {})["temporal_difference"]
    with_replay.loss(views, {})
    same = with_replay.replay.recall((torch.arange(4) + views["lesson"]) / 4)
    assert len(set((views["lesson"] * 3).long().tolist())) > 1
    torch.testing.assert_close(with_replay.temporal_difference(with_replay.agent, *same), direct, rtol=1e-5, atol=1e-7)


def test_a_replay_smaller_than_the_batch_keeps_images_with_their_own_actions() -> None:
    method = method_of(replay=3)
    views = views_of(method)
    method.loss(views, {})
    assert torch.equal(method.replay.views, views["view"][:3].half())
    assert torch.equal(method.replay.actions, method.episode(views, method.epsilon)[:3])


def test_a_part_filled_replay_gives_back_what_it_has() -> None:
    method = method_of(replay=100)
    method.loss(views_of(method), {})
    view, _, rewards, _ = method.replay.recall(torch.rand(50))
    assert (rewards > 0).all() and (view.abs().amax((1, 2, 3)) > 0).all()


def test_a_resumed_run_goes_on_to_the_bit() -> None:
    def step(method: IntelligentMasking, epoch: int) -> Tensor:
        loss = method.loss(views_of(method, epoch), {})["loss"]
        method.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        method.after_step((epoch + 1) / 4)
        return loss.detach()

    first = method_of(replay=6, gamma=0.9)
    for epoch in range(2):
        step(first, epoch)
    again = method_of(replay=6, gamma=0.9)
    again.load_state_dict(first.state_dict(), strict=True)
    for epoch in (2, 3):
        assert torch.equal(step(again, epoch), step(first, epoch))
    for mine, other in zip(again.state_dict().values(), first.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_the_target_network_follows_the_agent() -> None:
    method = method_of(gamma=0.5, target_momentum=0.75)
    before = [p.clone() for p in method.target.parameters()]
    for parameter in method.agent.parameters():
        parameter.data += 1
    method.after_step(0.1)
    for old, new in zip(before, method.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    assert method_of(gamma=0.0).target is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "clever"}, "policy clever: one of agent, random"),
        ({"block": 6}, "block 6"),
        ({"steps_per_episode": 8}, "steps_per_episode 8"),  # after 7 hides of 4 corners each, 25 may be gone
        ({"gamma": 1.5}, "gamma 1.5"),
        ({"replay": -1}, "replay -1"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments: dict[str, object], message: str) -> None:
    method_of(steps_per_episode=7)
    with pytest.raises(UsageError, match=message):
        method_of(**arguments)


def test_a_vision_transformer_is_refused() -> None:
    images, _ = bars(2)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, img_size=16, depth=1)
    with pytest.raises(UsageError, match="convolutional"):
        IntelligentMasking(vit, inputs_of(images))


def test_images_show_the_map_and_what_is_hidden() -> None:
    method = method_of().eval()
    views = views_of(method)
    with torch.no_grad():
        shown = method.example_images(views, {})
        cells = method.holes(method.episode(views, torch.tensor(0.0)))[1].any(1)
        visible = to_pixels(cells, 16) == 0
        assert torch.equal(shown["hidden"][~visible], torch.zeros_like(shown["hidden"][~visible]))
        assert torch.equal(shown["reconstruction"][visible], views["view"][visible])
        light = (shown["Q-map"] * 0.2 + 0.3) * 2 - (views["view"] * 0.2 + 0.3)  # what was laid over the image, in [0, 1]
        best = method.episode(views, torch.tensor(0.0))[:, 0]
    for b in range(4):
        row, column = divmod(int(best[b]), 5)
        at = to_pixels((torch.arange(36) == row * 6 + column)[None], 16)[0].bool()
        torch.testing.assert_close(light[b][at], torch.ones(int(at.sum())), atol=1e-4, rtol=0)
    assert light.min() > -1e-4 and light.max() < 1 + 1e-4
    assert "Q-map" not in method_of(policy="random").eval().example_images(views, {})


def noisy_right(n: int) -> Tensor:
    """Images that are flat on the left and noise on the right, which nobody can guess."""
    images = torch.full((n, 1, 20, 20), 100, dtype=torch.uint8)
    images[..., 10:] = torch.randint(0, 256, (n, 1, 20, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images


def test_the_agent_learns_to_hide_what_is_hard_to_guess() -> None:
    torch.manual_seed(0)
    images = noisy_right(64)
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    arguments = {"steps_per_episode": 2, "cells": 8, "decoder_dim": 16, "min_scale": 1.0, "jitter": 0.0}
    method = IntelligentMasking(encoder, inputs_of(images), **arguments)
    train(method, images, torch.zeros(64), steps=20, learning_rate=3e-3, size=16)
    method.eval()
    views = method.views(images, KeyedRNG(0, 99, torch.arange(64)))
    right = [(method.episode(views, torch.tensor(e)) % 7 >= 3).float().mean().item() for e in (0.0, 1.0)]
    assert right[0] > 0.95 and right[1] < 0.7  # 4 of 7 columns of corners


def test_it_learns_without_collapse() -> None:
    images, targets = bars(64)
    torch.manual_seed(0)
    encoder = timm.create_model("resnet10t", num_classes=0, in_chans=1, channels=(16, 32, 64, 128))
    method = IntelligentMasking(encoder, inputs_of(images), decoder_dim=32, cells=4, steps_per_episode=2, random_share=1.0)
    losses = train(method, images, targets, steps=30, learning_rate=3e-3)
    assert_learned(method, images, losses, fall=0.75)
