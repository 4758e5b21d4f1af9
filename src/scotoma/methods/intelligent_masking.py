"""Intelligent masking: an agent learns to hide what is hard to fill in (Bahrami et al. 2022, arXiv 2203.13865)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views, decay_groups
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.heads import follow, momentum_copy
from scotoma.models.inpainting_decoders import MapDecoder, QNetwork, fill_in, to_pixels
from scotoma.rng import KeyedRNG

POLICIES = ("agent", "random")


class IntelligentMasking(Method):
    """An inpainter and an agent that is rewarded by the inpainter's error. Exports the inpainter's encoder (online).

    An episode: the agent sees the image with what is already hidden and gives each of ``cells`` x ``cells`` locations a Q-value;
    an action is the cell at the upper left of a block of ``block`` x ``block`` cells, which is then hidden, ``steps_per_episode``
    times. Cells already hidden are no actions, nor are corners whose block would reach over the image's edge. Then the inpainter
    fills in what was hidden, once, and the reward of each hide is its mean squared error on the cells that this hide added. The
    inpainter learns by that error, the agent by the squared temporal difference Q(s, a) - (r + gamma max Q'(s', a')).

    The agent learns of one hide for each image of the batch, drawn at random: of the image's own episode, or of the replay
    buffer. The choice of the others costs a pass of the agent each, without gradient.

    One pass of the inpainter for the whole episode, instead of one after each hide: a reward is then the error when everything is
    hidden, which is what the inpainter is trained on (the rewards of an episode make up its loss), not the error at the moment of
    the hide; a block beside one that is hidden later is worth more. With one hide both are the same.

    Args:
        policy: agent, or random: uniformly random actions, no agent, on the same budget of hidden blocks.
        cells: locations along a side of the image.
        block: side of what an action hides, cells.
        steps_per_episode: T, blocks hidden per image, one after the other.
        gamma: discount of the rewards that follow; above 0, they are judged by a target network, a moving average of the agent.
        target_momentum: EMA momentum of the target network.
        replay: images to keep with their actions and rewards, of which the agent learns instead of the batch's own; 0 for none.
            Rewards are not computed anew, but none is older than ``replay`` images.
        random_share: share of the training in which all actions are random (published code: 20 % of the epochs).
        epsilon_decay: share of the training, after that, in which the share of random actions falls from 1 to ``epsilon_end``.
        epsilon_end: share of random actions in the end (published code: 0, at once).
        whole: train the inpainter on the error of the whole image, not of the hidden part alone.
        decoder_dim: channels of the decoder's first maps.
        min_scale: smallest crop, as a fraction of the image area.
        jitter: strength of brightness, contrast and gamma changes.

    The published code hides one block of 2 x 2 of 9 x 9 cells, 5 % of the image. So few hidden pixels teach an encoder little in
    a few minutes; the small preset hides six blocks of 2 x 2 of 8 x 8 cells, up to 38 %, for one pass of the inpainter as before.
    As the rewards of an episode nearly add up, looking ahead gains little there: gamma is 0. A tenth of the actions stay random,
    so that no part of the images is never trained on and each Q-value stays up to date. The published agent may choose corners at
    the edge, where blocks are cut off and which its random phase never tries, and its reward is the error summed over the whole
    image; here it is the mean over what was hidden.
    """

    needs_cnn = True
    batch_size = 64
    learning_rate = 1e-3
    weight_decay = 0.01
    # For --size 300. Published: an inpainter that is none of timm's networks; two Adams at one rate, which one
    # AdamW without decay over both networks' groups equals; x 0.33 at 1/3 and 2/3 of the epochs, where ours falls as a cosine.
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet18",
        "size": 300,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "scaling": "sqrt",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "epochs": 300,
        "method_args": {
            "cells": 9,
            "steps_per_episode": 1,
            "epsilon_decay": 0.0,
            "epsilon_end": 0.0,
            "min_scale": 1.0,
            "jitter": 0.0,
        },
    }
    blocks: Tensor
    corners: Tensor
    epsilon: Tensor

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, policy: str = "agent", cells: int = 8, block: int = 2,
                 steps_per_episode: int = 6, gamma: float = 0.0, target_momentum: float = 0.99, replay: int = 0,
                 random_share: float = 0.2, epsilon_decay: float = 0.3, epsilon_end: float = 0.1, whole: bool = False,
                 decoder_dim: int = 128, min_scale: float = 0.5, jitter: float = 0.1) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        size, channels, side = inputs.image_size, inputs.in_chans, cells - block + 1
        self.decoder = MapDecoder(encoder, channels, size, decoder_dim)
        if policy not in POLICIES:
            raise UsageError(f"--method.policy {policy}: one of {', '.join(POLICIES)}")
        if not 1 <= block < cells <= size:
            raise UsageError(f"--method.block {block}: must be at least 1 and less than the {cells} cells of a side")
        if not 1 <= steps_per_episode <= (side**2 - 1) // block**2 + 1:
            raise UsageError(f"--method.steps_per_episode {steps_per_episode}: {cells} x {cells} cells may leave nothing to hide")
        shares = {
            "gamma": gamma,
            "target_momentum": target_momentum,
            "random_share": random_share,
            "epsilon_decay": epsilon_decay,
            "epsilon_end": epsilon_end,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UsageError(f"--method.{name} {share}: must be from 0 to 1")
        if replay < 0:
            raise UsageError(f"--method.replay {replay}: must be at least 0")
        self.cells, self.steps, self.gamma, self.target_momentum = cells, steps_per_episode, gamma, target_momentum
        self.random_share, self.epsilon_decay, self.epsilon_end = random_share, epsilon_decay, epsilon_end
        self.whole = whole
        self.agent = QNetwork(channels, cells) if policy == "agent" else None
        self.target = momentum_copy(self.agent) if self.agent is not None and gamma else None
        self.replay = _Replay(replay, channels, size, steps_per_episode) if self.agent is not None and replay else None
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)
        # an action is one of ``side`` x ``side`` corners: ``corners`` (A,) are their cells, ``blocks`` (A, N) what each hides
        within = torch.zeros(side, side, cells, cells, dtype=torch.bool)
        for row in range(side):
            for column in range(side):
                within[row, column, row : row + block, column : column + block] = True
        self.register_buffer("blocks", within.view(side**2, cells**2), persistent=False)
        self.register_buffer("corners", torch.arange(cells**2).view(cells, cells)[:side, :side].flatten(), persistent=False)
        self.register_buffer("epsilon", torch.tensor(self._epsilon(0.0)))

    def param_groups(self) -> list[dict[str, Any]]:
        """The inpainter's parameters and the agent's, in groups of their own."""
        inpainter = decay_groups(nn.ModuleList([self.encoder, self.decoder]))
        return inpainter if self.agent is None else [*inpainter, *decay_groups(self.agent)]

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One view, and its random numbers: whether each action is random, which one then, and of which hide the agent learns."""
        return {
            "view": self.augment(images, rng),
            "explore": rng.uniform("explore", self.steps),
            "chance": rng.uniform("chance", self.steps, len(self.corners)),
            "lesson": rng.uniform("lesson"),
        }

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The inpainter's squared error plus the agent's squared temporal difference; neither's gradient reaches the other."""
        view = views["view"]
        actions = self.episode(views, self.epsilon)
        added = self.holes(actions)[1]
        prediction, hidden = self.inpaint(view, added.any(1))
        error = (prediction.float() - view).square().mean(1)  # (B, H, W)
        inpainting = error.mean() if self.whole else collectives.share((error * hidden.squeeze(1)).sum(), hidden.sum())
        if self.agent is None:
            return {"loss": inpainting}
        rewards = self.rewards(error.detach(), added)
        if self.replay is not None and self.training:
            self.replay.remember(*(collectives.all_gather(x) for x in (view, actions, rewards)))
            difference = self.temporal_difference(self.agent, *self.replay.recall(views["lesson"]))
        else:
            at = (views["lesson"] * self.steps).long()
            difference = self.temporal_difference(self.agent, view, actions, rewards, at)
        return {
            "loss": inpainting + difference,
            "inpainting": inpainting.detach(),
            "temporal_difference": difference.detach(),
            "epsilon": self.epsilon.clone(),
        }

    @torch.no_grad()
    def episode(self, views: Views, epsilon: Tensor) -> Tensor:
        """The actions of an episode, epsilon-greedy: (B, T) int64."""
        hidden = views["view"].new_zeros(len(views["view"]), self.cells**2, dtype=torch.bool)
        actions = []
        for step in range(self.steps):
            taken = hidden[:, self.corners]
            action = views["chance"][:, step].masked_fill(taken, -1).argmax(1)  # of uniform numbers the largest: any of the free
            if self.agent is not None:
                greedy = self.values(self.agent, views["view"], hidden).argmax(1)
                action = torch.where(views["explore"][:, step] < epsilon, action, greedy)
            actions.append(action)
            hidden = hidden | self.blocks[action]
        return torch.stack(actions, 1)

    def values(self, agent: nn.Module, view: Tensor, hidden: Tensor) -> Tensor:
        """Q of each action in images (B, C, H, W) whose cells ``hidden`` (B, N) are: (B, A), -inf where it is none."""
        pixels = to_pixels(hidden, view.shape[-1])
        q = agent(view * (1 - pixels), pixels).flatten(1)[:, self.corners]
        return q.masked_fill(hidden[:, self.corners], -torch.inf)

    def holes(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) actions -> the cells hidden before each, and those that each added, (B, T, N)."""
        blocks = self.blocks[actions]
        after = blocks.cumsum(1) > 0
        before = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)
        return before, blocks & ~before

    def inpaint(self, view: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """What the inpainter makes of images without these cells (B, N), and the holes as pixels (B, 1, H, W)."""
        hidden = to_pixels(cells, view.shape[-1])
        return fill_in(self.encoder, self.decoder, view * (1 - hidden)), hidden

    def rewards(self, error: Tensor, added: Tensor) -> Tensor:
        """(B, T): the mean error (B, H, W) on the cells that each action added (B, T, N)."""
        pixels = to_pixels(added.flatten(0, 1), error.shape[-1]).view(*added.shape[:2], -1)
        return (pixels * error.flatten(1)[:, None]).sum(2) / pixels.sum(2)

    def temporal_difference(self, agent: nn.Module, view: Tensor, actions: Tensor, rewards: Tensor, at: Tensor) -> Tensor:
        """Mean squared temporal difference of M hides: the ``at``-th (M,) of the episodes (M, T) in these views."""
        before, added = (x[torch.arange(len(at), device=at.device), at] for x in self.holes(actions))
        action, wanted = (x.gather(1, at[:, None]).squeeze(1) for x in (actions, rewards))
        if self.target is not None:
            with torch.no_grad():
                following = self.values(self.target, view, before | added).amax(1)
                wanted = wanted + self.gamma * torch.where(at == self.steps - 1, 0.0, following)
        value = self.values(agent, view, before).gather(1, action[:, None]).squeeze(1)
        return (value - wanted).square().mean()

    def _epsilon(self, progress: float) -> float:
        """Share of random actions: 1 at first, then falling in a line to ``epsilon_end``."""
        late = progress - self.random_share
        if late < 0:
            return 1.0
        fallen = late / self.epsilon_decay if late < self.epsilon_decay else 1.0
        return 1 - fallen * (1 - self.epsilon_end)

    def after_step(self, progress: float) -> None:
        """Set the share of random actions; move the target network."""
        self.epsilon.fill_(self._epsilon(progress))
        if self.agent is not None and self.target is not None:
            follow(self.target, self.agent, self.target_momentum)

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, the agent's Q-map over it, what is hidden when all actions are greedy, and what is filled in."""
        view = views["view"]
        cells = self.holes(self.episode(views, torch.zeros_like(self.epsilon)))[1].any(1)
        prediction, hidden = self.inpaint(view, cells)
        shown = {"view": view}
        if self.agent is not None:
            shown["Q-map"] = self._painted(self.agent, view)
        return {**shown, "hidden": view * (1 - hidden), "reconstruction": torch.where(hidden > 0, prediction.float(), view)}

    def _painted(self, agent: nn.Module, view: Tensor) -> Tensor:
        """Half the view, half the Q-values of the first action, from the image's lowest (black) to its highest (white)."""
        cells = view.new_zeros(len(view), self.cells**2)
        q = self.values(agent, view, cells.bool())
        low, high = q.amin(1, keepdim=True), q.amax(1, keepdim=True)
        light = to_pixels(cells.index_copy(1, self.corners, (q - low) / (high - low).clamp(min=1e-6)), view.shape[-1])
        mean, std = (view.new_tensor(values).view(1, -1, 1, 1) for values in (self.inputs.mean, self.inputs.std))
        return ((view * std + mean + light) / 2 - mean) / std


class _Replay(nn.Module):
    """The last episodes, in buffers: the images, in half precision, and what was done in them; the newest replace the oldest.

    The actions alone say what was hidden when, so an image is kept once for all its hides.

    Args:
        size: images to keep.
        channels: of an image.
        side: of an image, pixels.
        steps: hides of an episode.
    """

    views: Tensor
    actions: Tensor
    rewards: Tensor
    count: Tensor

    def __init__(self, size: int, channels: int, side: int, steps: int) -> None:
        super().__init__()
        self.register_buffer("views", torch.zeros(size, channels, side, side, dtype=torch.float16))
        self.register_buffer("actions", torch.zeros(size, steps, dtype=torch.int64))
        self.register_buffer("rewards", torch.zeros(size, steps))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def remember(self, view: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """Keep the episodes of a batch, (B, C, H, W), (B, T) and (B, T)."""
        size = len(self.views)
        place = (self.count + torch.arange(min(len(view), size), device=view.device)) % size
        self.views[place] = view[:size].half()
        self.actions[place] = actions[:size]
        self.rewards[place] = rewards[:size]
        self.count += len(place)

    def recall(self, chance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One hide for each of these uniform numbers (M,): its view, its episode's actions and rewards, and its place there."""
        steps = self.actions.shape[1]
        drawn = (chance.double() * (self.count.clamp(max=len(self.views)) * steps)).long()
        episode = drawn // steps
        return self.views[episode].float(), self.actions[episode], self.rewards[episode], drawn % steps
