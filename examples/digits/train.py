#!/usr/bin/env python3
"""Trains a small neural network on handwritten digits with nothing but Python itself.

The network has one hidden layer (64 pixels -> hidden units with ReLU -> 10 classes) and learns by
stochastic gradient descent with momentum on mini-batches. The same seed gives the same numbers.
Each epoch prints one line `metric: loss=... accuracy=... step=N`, which is what an experiment shows.
"""

import argparse
import csv
import math
import pathlib
import random
from operator import mul

PIXELS = 64
CLASSES = 10
TEST_PART = 0.2
BATCH = 16
MOMENTUM = 0.9


def read_digits(path):
    """Returns [(pixels scaled to 0..1, class)] in the order of the file."""
    with open(path, newline="") as file:
        rows = [[int(cell) for cell in row] for row in csv.reader(file)]
    return [([pixel / 16 for pixel in row[:PIXELS]], row[PIXELS]) for row in rows]


class Network:
    """Weights of the two layers; the last weight of each unit is its bias."""

    def __init__(self, hidden, chance):
        self.first = [layer_row(PIXELS, chance) for _ in range(hidden)]
        self.second = [layer_row(hidden, chance) for _ in range(CLASSES)]

    def forward(self, pixels):
        """Returns the hidden activations (with a 1 for the bias) and the class probabilities."""
        active = [max(0.0, sum(map(mul, row, pixels)) + row[-1]) for row in self.first]
        active.append(1.0)
        scores = [sum(map(mul, row, active)) for row in self.second]
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        total = sum(powers)
        return active, [power / total for power in powers]

    def add_gradient(self, pixels, label, gradient_first, gradient_second):
        """Adds one example's gradient of the cross-entropy; returns (loss, was right)."""
        active, chances = self.forward(pixels)
        loss = -math.log(max(chances[label], 1e-12))
        right = chances.index(max(chances)) == label
        errors = list(chances)
        errors[label] -= 1.0
        for error, row in zip(errors, gradient_second):
            row[:] = [g + error * a for g, a in zip(row, active)]
        inputs = pixels + [1.0]
        for unit, row in enumerate(gradient_first):
            if active[unit] > 0.0:
                back = sum(error * weights[unit] for error, weights in zip(errors, self.second))
                row[:] = [g + back * x for g, x in zip(row, inputs)]
        return loss, right

    def step(self, rows, gradient, velocity, rate):
        """Moves one layer against its gradient."""
        for weights, slope, speed in zip(rows, gradient, velocity):
            speed[:] = [MOMENTUM * s - rate * g for s, g in zip(speed, slope)]
            weights[:] = [w + s for w, s in zip(weights, speed)]


def layer_row(inputs, chance):
    """Weights of one unit by He's rule (standard deviation sqrt(2 / inputs)), bias 0."""
    spread = math.sqrt(2.0 / inputs)
    return [chance.gauss(0.0, spread) for _ in range(inputs)] + [0.0]


def zeros_like(rows):
    return [[0.0] * len(row) for row in rows]


def train_epoch(network, examples, velocities, rate):
    """One pass over the examples; returns (mean loss, accuracy)."""
    loss_sum, right_count = 0.0, 0
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        first, second = zeros_like(network.first), zeros_like(network.second)
        for pixels, label in batch:
            loss, right = network.add_gradient(pixels, label, first, second)
            loss_sum += loss
            right_count += right
        network.step(network.first, first, velocities[0], rate / len(batch))
        network.step(network.second, second, velocities[1], rate / len(batch))
    return loss_sum / len(examples), right_count / len(examples)


def accuracy(network, examples):
    right = 0
    for pixels, label in examples:
        chances = network.forward(pixels)[1]
        right += chances.index(max(chances)) == label
    return right / len(examples)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate (default 0.05)")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the data (default 40)")
    parser.add_argument("--hidden", type=int, default=32, help="hidden units (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness (default 0)")
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--data", type=pathlib.Path, default=here / "digits.csv", help="the CSV file")
    return parser.parse_args()


def main():
    args = arguments()
    chance = random.Random(args.seed)
    examples = read_digits(args.data)
    chance.shuffle(examples)
    test_count = int(len(examples) * TEST_PART)
    test, train = examples[:test_count], examples[test_count:]
    print(
        f"digits: {len(train)} training rows, {len(test)} test rows, lr {args.lr}, seed {args.seed}",
        flush=True,
    )
    network = Network(args.hidden, chance)
    velocities = zeros_like(network.first), zeros_like(network.second)
    for epoch in range(1, args.epochs + 1):
        chance.shuffle(train)
        loss, right = train_epoch(network, train, velocities, args.lr)
        print(f"metric: loss={loss:.6f} accuracy={right:.4f} step={epoch}", flush=True)
    print(f"test accuracy {accuracy(network, test):.4f}", flush=True)


if __name__ == "__main__":
    main()
