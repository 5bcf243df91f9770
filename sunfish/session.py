"""The exported step behind ONNX Runtime: texts in the making whose state stays on the device from step to step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from sunfish.problems import Problem
from sunfish.sampler import Given, Look, Table, asks_guess

FORMAT = 7  # of the exported folder: its files and what they hold
CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
STATE = {
    "x": "x_next",
    "x_0_prev": "x_0_hat",
    "ids": "ids_next",
    "known": "known_next",
    "age": "age_next",
}  # a step's input <- the output before


GRAPHS = {
    "model": "the denoiser: (x_t, logsnr, x_0_prev, known, turn, temperature) -> (x_0_hat, logits)",
    "step": "a row of a sampler's table at each position: (x, x_0_prev, ids, known, age, noise, chance, table, place, left, temperature) "
    "-> the next, text, certainty",
    "picard": "a call of a walk at once, all positions' steps together; inputs and answers are the step's",
    "guess": "what a walk at once asks at every other call, distilled from it, in some folders; inputs and answers are the step's",
    "score": "how likely a text is: (ids) -> nats of each token, given those before it",
    "sampler": "the whole walk over the step: (noise, chance, table, steps, place, ids, known, temperature) -> text",
    "picard_sampler": "the whole walk at once, over the call of one; inputs and answer are the sampler's",
}
PRECISIONS = ("fp32", "int8")


def graph_path(folder: Path, graph: str, precision: str = PRECISIONS[0]) -> Path:
    """Return where an exported folder holds a graph."""
    return folder / "onnx" / f"{graph}{'' if precision == PRECISIONS[0] else '_quantized'}.onnx"


def step_graph(table: Table) -> str:
    """Return the name of the graph that a table's walk calls."""
    return "picard" if table.at_once else "step"


def sampler_graph(table: Table) -> str:
    """Return the name of the graph that is a table's whole walk."""
    return "picard_sampler" if table.at_once else "sampler"


def open_session(path: Path, num_threads: int | None = None, providers: Sequence[str] = CPU) -> ort.InferenceSession:
    """Load a graph.

    Raises:
        Problem: a provider that is not installed, or a file that is no graph.
    """
    there = ort.get_available_providers()
    missing = [name for name in providers if name not in there]
    if missing:
        raise Problem(f"{missing[0]} is not installed; this onnxruntime has {', '.join(there)}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or usable_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # weights kept in 8 bits are read once, not in every call
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # the library's own exceptions share no class
        raise Problem(f"{path}: cannot be loaded by onnxruntime ({str(error).splitlines()[0]})") from error


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxNetwork:
    """A step graph, or one of a walk at once, and a source of noise and chance, as `sampler.walk` wants them.

    Every part of the state has two places on the device; a step reads one and writes the other, so that nothing is allocated or
    copied from step to step.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        noise: Callable[[], np.ndarray],
        chance: Callable[[], np.ndarray],
        temperature: float = 1.0,
        guess: ort.InferenceSession | None = None,
    ) -> None:
        self.guess = guess  # of a walk at once
        self.session, self.noise, self.chance, self.temperature = session, noise, chance, temperature
        self.device = "cuda" if session.get_providers()[0] in CUDA else "cpu"

    def start(self, table: Table, given: Given, place: np.ndarray) -> None:
        noise, shape, self.draws, self.call = self.noise(), given.ids.shape, table.draws, 0
        state = {"x": noise, "x_0_prev": np.zeros_like(noise), "ids": given.ids.astype(np.int64), "known": given.known}
        state |= {"age": np.zeros(shape, np.int64)}
        places = [self._values(state), self._values(state)]
        self.told = self._values({"noise": noise, "chance": self.chance(), "table": table.rows().astype(np.float32)})
        self.told |= self._values({"place": place, "left": np.zeros(shape[0], np.int64)})
        self.told |= self._values({"temperature": np.full(shape[0], self.temperature, np.float32)})
        self.seen = self._values({"text": given.ids.astype(np.int64), "probability": np.zeros(shape, np.float32)})
        self.turns = [self._bind(self.session, *pair) for pair in (places, places[::-1])]
        self.guessing = self._bind(self.guess, *places) if self.guess is not None and table.at_once else None
        self.known = [place["known"] for place in places]

    def step(self, left: int) -> None:
        self.told["left"].update_inplace(np.full(self.told["left"].shape(), left, np.int64))
        if self.draws:
            self.told["noise"].update_inplace(self.noise())
            self.told["chance"].update_inplace(self.chance())
        if self.guess is not None and self.guessing is not None and asks_guess(self.call, left):
            self.guess.run_with_iobinding(self.guessing)
        else:
            self.session.run_with_iobinding(self.turns[0])
        self.call += 1
        self.turns.reverse()
        self.known.reverse()

    def look(self) -> Look:
        values = (self.seen["text"], self.seen["probability"], self.known[0])
        return Look(*(value.numpy().copy() for value in values))  # on a CPU `numpy` is a view, which the next step writes over

    def _values(self, arrays: dict[str, np.ndarray]) -> dict[str, ort.OrtValue]:
        return {name: ort.OrtValue.ortvalue_from_numpy(array.copy(), self.device, 0) for name, array in arrays.items()}

    def _bind(self, session: ort.InferenceSession, source: dict[str, ort.OrtValue], target: dict[str, ort.OrtValue]) -> ort.IOBinding:
        binding = session.io_binding()
        for name, value in (source | self.told).items():
            binding.bind_ortvalue_input(name, value)
        for name, value in ({STATE[name]: value for name, value in target.items()} | self.seen).items():
            binding.bind_ortvalue_output(name, value)
        return binding
