"""Train the network on synthetic subjects and write it as ONNX.

    python -m training.train --subjects FOLDER --out FOLDER [--steps 3000] [--minutes 50] [--seed 1]

Needs PyTorch and onnx, which the project does not install. Patches are made while it trains; two subjects are kept apart to
watch it. No real scan is read here. The learning rate falls to zero with the steps, or with the clock where that runs out
first. A network and a line in ``log.csv`` are written at each checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.network import UNet
from training.patches import CHANNELS, Target, make_patch, network_input
from training.subjects import Subject, load_subjects

BATCH = 2
KEPT_APART = 2
AVERAGE = 0.995
"""How slowly the averaged weights, which are what is written, follow the trained ones."""
_WARM_UP_STEPS = 100
_CHECKPOINT_STEPS = 250
_WATCHED_PATCHES = 16


def batch_of(
    subjects: list[Subject], seed: int, step: int, edge: int, voxel_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Input (N, channels, Z, Y, X) and targets (N, Z, Y, X) of a step; the same for the same seed and step."""
    rng = np.random.default_rng([seed, step])
    chosen = rng.integers(len(subjects), size=BATCH)
    patches = [make_patch(subjects[int(n)], rng, edge=edge, voxel_mm=voxel_mm) for n in chosen]
    return np.stack([network_input(p.hu) for p in patches]), np.stack([p.target for p in patches]).astype(np.int64)


def batches(
    subjects: list[Subject], seed: int, steps: int, edge: int, voxel_mm: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all steps; the next one is made while the network works on this one."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch_of, subjects, seed, 0, edge, voxel_mm)
        for step in range(steps):
            image, target = ahead.result()
            ahead = pool.submit(batch_of, subjects, seed, step + 1, edge, voxel_mm)
            yield torch.from_numpy(image), torch.from_numpy(target)


def loss_of(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the classes that the batch holds."""
    log_share = torch.log_softmax(scores.float(), dim=1)
    entropy = torch.nn.functional.nll_loss(log_share, target)
    share = log_share.exp()
    wanted = torch.nn.functional.one_hot(target, len(Target)).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    size = wanted.sum(axes)
    dice = (2 * (share * wanted).sum(axes) + 1) / (share.sum(axes) + size + 1)
    there = size > 0
    there[0] = False
    return entropy + (1 - dice[there].mean() if bool(there.any()) else 0.0)


def dice_by_class(model: UNet, images: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Dice of each class over all watched patches together."""
    both, either = np.zeros(len(Target)), np.zeros(len(Target))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for image, target in zip(images.split(BATCH), targets.split(BATCH), strict=True):
            found = model(image.contiguous(memory_format=torch.channels_last_3d)).argmax(1)
            for kind in Target:
                a, b = found == kind, target == kind
                both[kind] += 2 * float((a & b).sum())
                either[kind] += float(a.sum() + b.sum())
    return both / np.maximum(either, 1)


def write_onnx(model: UNet, path: Path, edge: int) -> None:
    """Write the network for patches of any number and size."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    torch.onnx.export(
        plain,
        (torch.zeros(1, CHANNELS, edge, edge, edge),),
        str(path),
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )


def main(arguments: list[str] | None = None, *, report: Callable[..., object] = print) -> int:
    """Train; the exit status is 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end then, whatever the steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--edge", type=int, default=48, help="edge of a patch in voxels, a multiple of eight")
    parser.add_argument("--voxel-mm", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    people = load_subjects(options.subjects)
    size = (options.edge, options.voxel_mm)
    watched = list(batches(people[:KEPT_APART], options.seed + 1000, _WATCHED_PATCHES // BATCH, *size))
    images, targets = torch.cat([b[0] for b in watched]), torch.cat([b[1] for b in watched])
    model = UNet(CHANNELS, len(Target)).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = copy.deepcopy(model)
    report(f"{sum(p.numel() for p in model.parameters())} weights, {len(people) - KEPT_APART} subjects to train on")
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=1e-2)
    log = options.out / "log.csv"
    log.write_text("step,seconds,loss," + ",".join(k.name.lower() for k in Target) + "\n", encoding="utf-8")
    started, losses = time.monotonic(), []
    training = batches(people[KEPT_APART:], options.seed, options.steps, *size)
    for step, (image, target) in enumerate(training, start=1):
        progress = max(step / options.steps, (time.monotonic() - started) / (60.0 * options.minutes))
        for group in optimiser.param_groups:
            group["lr"] = (
                options.rate * min(1.0, step / _WARM_UP_STEPS) * 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
            )
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(image.contiguous(memory_format=torch.channels_last_3d))
        loss = loss_of(scores, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        follow = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - follow)
        losses.append(float(loss.detach()))
        if step % _CHECKPOINT_STEPS == 0 or progress >= 1.0:
            dice = dice_by_class(average, images, targets)
            line = f"{step},{time.monotonic() - started:.0f},{np.mean(losses):.4f}," + ",".join(
                f"{d:.3f}" for d in dice
            )
            with log.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
            report(line)
            losses = []
            torch.save(average.state_dict(), options.out / "weights.pt")
            write_onnx(average, options.out / "network.onnx", options.edge)
        if progress >= 1.0:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
