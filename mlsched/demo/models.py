"""A small network in numpy: one hidden layer, Adam, averaged weights.

The same network classifies (softmax and cross-entropy) and estimates a median (Huber's loss with
a small threshold, so near to the absolute error). The same batches in the same order give the same
bits.

Source: D. P. Kingma, J. Ba, "Adam", ICLR 2015; averaging after B. T. Polyak, A. B. Juditsky, 1992.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HIDDEN = 32
STEP_SIZE = 3e-3
DECAY = 3e-2
"""Weight decay on the hidden and the output weights; strong, since the data are few and noisy."""
AVERAGE = 0.995
HUBER = 0.2
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


class Network:
    """Features in, scores out: one a class, or one estimate.

    Args:
        features: Width of the input.
        outputs: Classes, or 1 to estimate a number.
        seed: Of the first weights.
    """

    def __init__(self, features: int, outputs: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.outputs = outputs
        self.steps = 0
        self.weights: list[Floats] = [
            draw.normal(size=(features, HIDDEN)) / np.sqrt(features),
            np.zeros(HIDDEN),
            draw.normal(size=(HIDDEN, outputs)) / np.sqrt(HIDDEN) * 0.1,
            np.zeros(outputs),
        ]
        self.average = [weight.copy() for weight in self.weights]
        self._moments = [np.zeros((2, *weight.shape)) for weight in self.weights]

    def start_at(self, estimate: float) -> None:
        """Begin with a constant estimate: the median is found before the rest is learned."""
        self.weights[3][:] = self.average[3][:] = estimate

    def scores(self, features: Floats) -> Floats:
        """Outputs of the averaged weights, one row a sample."""
        return _forward(features, self.average)[1]

    def learn(self, features: Floats, target: Floats) -> float:
        """One step on a batch; the loss before it."""
        hidden, scores = _forward(features, self.weights)
        loss, slope = self._loss(scores, target)
        back = (slope @ self.weights[2].T) * (1 - hidden**2)
        slopes = [features.T @ back, back.sum(0), hidden.T @ slope, slope.sum(0)]
        slopes[0] += DECAY / self.outputs * self.weights[0]
        slopes[2] += DECAY / self.outputs * self.weights[2]
        self.steps += 1
        for weight, average, moments, each in zip(
            self.weights, self.average, self._moments, slopes, strict=True
        ):
            moments[0] += (1 - _FIRST) * (each - moments[0])
            moments[1] += (1 - _SECOND) * (each**2 - moments[1])
            first = moments[0] / (1 - _FIRST**self.steps)
            second = moments[1] / (1 - _SECOND**self.steps)
            np.subtract(weight, STEP_SIZE * first / (np.sqrt(second) + _TINY), out=weight)
            np.add(average, (1 - AVERAGE) * (weight - average), out=average)
        return loss

    def _loss(self, scores: Floats, target: Floats) -> tuple[float, Floats]:
        if self.outputs == 1:
            error = scores[:, 0] - target
            slope = np.clip(error / HUBER, -1, 1)
            return float(np.abs(error).mean()), slope[:, None] / len(target)
        shifted = np.exp(scores - scores.max(1, keepdims=True))
        chances = shifted / shifted.sum(1, keepdims=True)
        at = np.arange(len(target)), target.astype(np.int64)
        loss = float(-np.log(chances[at] + _TINY).mean())
        chances[at] -= 1
        return loss, chances / len(target)

    def to_arrays(self) -> dict[str, Any]:
        """All of the network's state by name, for ``np.savez``."""
        found: dict[str, Any] = {"steps": self.steps}
        for number in range(len(self.weights)):
            found[f"weight{number}"] = self.weights[number]
            found[f"average{number}"] = self.average[number]
            found[f"moments{number}"] = self._moments[number]
        return found

    def from_arrays(self, arrays: Any) -> None:
        """Take over the state that `to_arrays` gave."""
        self.steps = int(arrays["steps"])
        for number in range(len(self.weights)):
            self.weights[number] = arrays[f"weight{number}"]
            self.average[number] = arrays[f"average{number}"]
            self._moments[number] = arrays[f"moments{number}"]


def _forward(features: Floats, weights: list[Floats]) -> tuple[Floats, Floats]:
    hidden = np.tanh(features @ weights[0] + weights[1])
    return hidden, hidden @ weights[2] + weights[3]
