"""The exported step behind ONNX Runtime: texts in the making whose state stays on the device from step to
step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from sunfish.errors import UserError
from sunfish.sampling.solvers import Given, Look, Table, asks_guess

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


def open_session(
    path: Path, num_threads: int | None = None, providers: Sequence[str] = CPU
) -> ort.InferenceSession:
    """Load a graph.

    Raises:
        UserError: a provider that is not installed, or a file that is no graph.
    """
    there = ort.get_available_providers()
    missing = [name for name in providers if name not in there]
    if missing:
        raise UserError(f"{missing[0]} is not installed; this onnxruntime has {', '.join(there)}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or usable_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry(
        "session.disable_quant_qdq", "1"
    )  # weights kept in 8 bits are read once, not in every call
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # the library's own exceptions share no class
        raise UserError(f"{path}: cannot be loaded by onnxruntime ({str(error).splitlines()[0]})") from error


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxNetwork:
    """A step graph, or one of a walk at once, and a source of noise and chance, as `sampler.walk` wants them.

    Every part of the state has two places on the device; a step reads one and writes the other, so that
    nothing is allocated or copied from step to step. In a walk at once texts that have settled are left out
    whenever they are a fifth of those that are computed."""

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
        noise, shape, self.draws, self.at_once, self.call = (
            self.noise(),
            given.ids.shape,
            table.draws,
            table.at_once,
            0,
        )
        state = {
            "x": noise,
            "x_0_prev": np.zeros_like(noise),
            "ids": given.ids.astype(np.int64),
            "known": given.known,
        }
        told = {"noise": noise, "chance": self.chance(), "place": place, "left": np.zeros(shape[0], np.int64)}
        told |= {"temperature": np.full(shape[0], self.temperature, np.float32)}
        self.table = self._values({"table": table.rows().astype(np.float32)})
        self.all = Look(
            given.ids.astype(np.int64), np.zeros(shape, np.float32), given.known.copy()
        )  # of texts that are left out
        self.rows = np.arange(shape[0])  # those that are not
        self._hold(state | {"age": np.zeros(shape, np.int64)}, told)

    def step(self, left: int) -> None:
        self.told["left"].update_inplace(np.full(self.told["left"].shape(), left, np.int64))
        if self.draws:
            self.told["noise"].update_inplace(self.noise())
            self.told["chance"].update_inplace(self.chance())
        session, turns = self.session, self.turns
        if self.guess is not None and self.at_once and asks_guess(self.call, left):
            session, turns = self.guess, self.guessing
        session.run_with_iobinding(turns[0])
        self.call += 1
        for pair in (self.turns, self.guessing, self.places):
            pair.reverse()
        if self.at_once:
            self._leave_out_settled()

    def look(self) -> Look:
        values = (self.seen["text"], self.seen["probability"], self.places[0]["known"])
        for whole, value in zip(self.all, values, strict=True):
            whole[self.rows] = value.numpy()
        return Look(*(whole.copy() for whole in self.all))

    def _leave_out_settled(self) -> None:
        going = ~self.places[0]["known"].numpy().all(axis=1)
        if not 0 < 5 * going.sum() <= 4 * len(going):
            return
        self.look()
        self.rows = self.rows[going]
        self._hold(
            *(
                {name: value.numpy()[going] for name, value in part.items()}
                for part in (self.places[0], self.told)
            )
        )

    def _hold(self, state: dict[str, np.ndarray], told: dict[str, np.ndarray]) -> None:
        """Put texts on the device, and bind a step to them, from either place to the other."""
        self.places, self.told = [self._values(state), self._values(state)], self._values(told)
        self.seen = self._values(
            {"text": state["ids"], "probability": np.zeros(state["ids"].shape, np.float32)}
        )
        self.turns, self.guessing = (
            [self._bind(session, *pair) for pair in (self.places, self.places[::-1])]
            if session is not None
            else []
            for session in (self.session, self.guess if self.at_once else None)
        )

    def _values(self, arrays: dict[str, np.ndarray]) -> dict[str, ort.OrtValue]:
        return {
            name: ort.OrtValue.ortvalue_from_numpy(array.copy(), self.device, 0)
            for name, array in arrays.items()
        }

    def _bind(
        self, session: ort.InferenceSession, source: dict[str, ort.OrtValue], target: dict[str, ort.OrtValue]
    ) -> ort.IOBinding:
        binding = session.io_binding()
        for name, value in (source | self.told | self.table).items():
            binding.bind_ortvalue_input(name, value)
        for name, value in ({STATE[name]: value for name, value in target.items()} | self.seen).items():
            binding.bind_ortvalue_output(name, value)
        return binding
