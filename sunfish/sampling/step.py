"""One step of denoising and one check, each as one call. Torch runs them, and the exported graphs are
they.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sunfish.sampling.decode import draw_tokens, surprise_cutoff
from sunfish.types import Embeddings, KnownMask, PerPosition, PerRow, TokenIds

Scalar = Float[Tensor, ""]


class StepOutput(NamedTuple):
    """The next state (x, x_0_prev, ids, known), the text as it would stand now, and how probable its tokens
    are.
    """

    x: Embeddings
    x_0_hat: Embeddings
    ids: TokenIds
    known: KnownMask
    tokens: TokenIds
    confidence: PerPosition


class CheckOutput(NamedTuple):
    """The next state, and which token of each text was rejected, if any."""

    x: Embeddings
    ids: TokenIds
    known: KnownMask
    rejected: Bool[Tensor, "batch pos"]


class DenoiseStep(nn.Module):
    """x_next = c_x x + c_0 x_0_hat + c_p x_0_prev + c_n noise, at all unknown positions at once.

    `coefficients` is a row of `solvers.SolverTable.rows`. Known positions are set back to their clean
    embeddings first. A position whose likeliest token is more probable than `confidence_threshold` keeps that
    token: it becomes known. At the last step of a table the threshold is 0. Where `draws_tokens` is above 0,
    a drawn token's embedding stands for x_0_hat, none less probable than `epsilon_cutoff`; `uniforms` decide
    the draw.

    Source: [DDIM] eq. 12 for the row; [D3PM] section 3 for drawn tokens; [MaskGIT] section 3.2 for kept
    tokens."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser: Any = denoiser

    def forward(  # noqa: PLR0913 - an exported graph's inputs
        self, x: Embeddings, x_0_prev: Embeddings, ids: TokenIds, known: KnownMask, noise: Embeddings,
        uniforms: PerPosition, coefficients: Float[Tensor, " 5"], confidence_threshold: Scalar,
        epsilon_cutoff: Scalar, draws_tokens: Scalar, temperature: PerRow,
    ) -> StepOutput:  # fmt: skip
        logsnr, c_x, c_0, c_p, c_n = coefficients.unbind()
        x = torch.where(known[..., None], self.denoiser.embed(ids), x)
        x_0_hat, logits = self.denoiser(x, logsnr.expand(x.shape[0]), x_0_prev, known, temperature)
        probabilities = logits.softmax(dim=-1)
        confidence, likeliest = probabilities.max(dim=-1)
        drawn = draw_tokens(probabilities, uniforms, epsilon_cutoff)
        tokens = torch.where(known, ids, torch.where(draws_tokens > 0, drawn, likeliest))
        x_0 = torch.where(draws_tokens > 0, self.denoiser.embed(tokens), x_0_hat)
        keep = known | (confidence > confidence_threshold)
        x_next = c_x * x + c_0 * x_0 + c_p * x_0_prev + c_n * noise
        return StepOutput(x_next, x_0_hat, torch.where(keep, tokens, ids), keep, tokens, confidence)


class CheckStep(nn.Module):
    """One causal pass over the draft: accept all before the first rejected token, correct it, noise the rest
    anew.

    Token i is rejected if it is more surprising than the causal pass expects: if p(x_i | x_<i) is below
    `surprise_cutoff`. It is replaced by a token drawn from p(. | x_<i) among those that pass. All before it,
    and it, are known from then on. Texts without a rejected token are done: all of theirs is known.

    A *given* token may be rejected, too: the filling of the gap before it makes it improbable. Then that gap
    is opened again, and nothing is corrected; likewise if the gap's last token is rejected. So a filled gap
    is accepted only with what follows it.

    x of what is still unknown becomes alpha e(token) + sigma noise, at the level to which the next draft goes
    back.

    Source: [Medusa] section 2.3.1 (typical acceptance)."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser: Any = denoiser

    def forward(
        self, ids: TokenIds, given: KnownMask, noise: Embeddings, uniforms: PerPosition, epsilon: Scalar,
        logsnr: Scalar, temperature: PerRow,
    ) -> CheckOutput:  # fmt: skip
        logits = self.denoiser.next_token_logits(ids) / temperature[:, None, None]
        probabilities = logits.softmax(dim=-1)
        cutoff = surprise_cutoff(logits, epsilon)
        # by an index: onnx's reference evaluator gathers along an axis of 64 at most
        of_batch, of_pos = (torch.arange(size, device=ids.device) for size in ids.shape)
        improbable = probabilities[of_batch[:, None], of_pos, ids] < cutoff.squeeze(-1)
        answerable = ~given | (~given).long().cumsum(dim=1).ne(0)  # behind some position that was not given
        fails = improbable & answerable
        rejected = fails & (fails.long().cumsum(dim=1) == 1)
        before = 1 - rejected.long().cumsum(dim=1)  # 1 before the rejected token; everywhere if there is none
        is_gap_end = rejected & ~given & F.pad(given[:, 1:], (0, 1))
        drawn = draw_tokens(probabilities, uniforms, cutoff)
        ids = torch.where(rejected & ~given & ~is_gap_end, drawn, ids)
        reopened = self._gap_before((rejected & given) | F.pad(is_gap_end[:, :-1], (1, 0)), given)
        known = (given | before.bool() | rejected) & ~reopened
        alpha, sigma = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
        x_0 = self.denoiser.embed(ids)
        x = torch.where(known[..., None], x_0, alpha * x_0 + sigma * noise)
        return CheckOutput(x, ids, known, rejected)

    @staticmethod
    def _gap_before(rejected: KnownMask, given: KnownMask) -> KnownMask:
        """Return the positions of the last gap before a given token, and nothing else."""
        position = torch.arange(given.shape[1], device=given.device)
        end = torch.where(rejected, position, -1).amax(dim=1, keepdim=True)  # -1: none was rejected
        last = torch.where(~given & (position < end), position, -1).amax(dim=1, keepdim=True)
        wall = torch.where(given & (position < last), position, -1).amax(dim=1, keepdim=True)
        return (position > wall) & (position <= last)
