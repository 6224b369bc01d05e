"""Measure where an update of ddpg.py spends its time, in milliseconds.

    taskset -c 0 python benchmarks/ddpg_time.py OUT.csv

It measures updates of both networks on random transitions, with Hopper's sizes, layers of 256 units
and a batch of 256. The matrix products are also run alone, alternating with the updates. Adam, the
update of the targets and the sampling are timed inside the update.

The columns are means over the updates of a round, for the whole update with sampling, the ten
products, the smaller products, Adam with zero_grad, the targets, and the sampling.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))
import ddpg

OBS_SIZE, ACT_SIZE, UNITS = 11, 3, 256
COLUMNS = ["update", "large_products", "small_products", "adam", "targets", "sampling"]


class Products(TorchDispatchMode):
    """Record the two factors of each matrix product computed inside this context."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.factors.append(args[-2:])
        return func(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--updates", type=int, default=100, help="updates per round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    args = ddpg.Args(batch_size=UNITS, hidden_sizes=(UNITS, UNITS))
    cpu = torch.device("cpu")
    agent, target, *optimizers = ddpg.make_learners(OBS_SIZE, ACT_SIZE, cpu, args).values()
    buffer = ddpg.ReplayBuffer(OBS_SIZE, ACT_SIZE, cpu, args)
    for field in buffer.data[:-1]:  # leave `terminated` at 0: no transition is terminal
        field.normal_()
    buffer.num_added = args.buffer_size
    spent = dict.fromkeys(COLUMNS, 0.0)

    def timed(name, function):
        def run(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            spent[name] += time.perf_counter() - start
            return result

        return run

    def update() -> None:
        batch = buffer.sample(UNITS)
        ddpg.update(agent, target, *optimizers, batch, args, step=1)

    @torch.no_grad()
    def multiply(pairs) -> None:
        for x, y in pairs:
            x @ y

    with Products() as made:
        update()
    large = [(x, y) for x, y in made.factors if {*x.shape, *y.shape} == {UNITS}]
    small = [(x, y) for x, y in made.factors if {*x.shape, *y.shape} != {UNITS}]
    print(f"{len(large)} large products and {len(small)} smaller ones")
    update = timed("update", update)
    ddpg.polyak_update = timed("targets", ddpg.polyak_update)
    for optimizer in optimizers:
        optimizer.step = timed("adam", optimizer.step)
        optimizer.zero_grad = timed("adam", optimizer.zero_grad)
    buffer.sample = timed("sampling", buffer.sample)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["round", *COLUMNS])
        for i in range(-1, options.rounds):  # round -1 is the warm-up
            spent.update(dict.fromkeys(COLUMNS, 0.0))
            for _ in range(options.updates):
                update()
                timed("large_products", multiply)(large)
                timed("small_products", multiply)(small)
            row = 1000 * np.array([spent[name] for name in COLUMNS]) / options.updates
            if i >= 0:
                writer.writerow([i, *(f"{ms:.3f}" for ms in row)])
                print(i, *(f"{name} {ms:.2f}" for name, ms in zip(COLUMNS, row)), flush=True)


if __name__ == "__main__":
    main()
