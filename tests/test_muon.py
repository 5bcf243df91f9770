from __future__ import annotations

import pytest
import torch

from sunfish.training.muon import Muon, orthogonalize


def test_muon_is_the_library_s_in_batches() -> None:
    """Tall, wide and square matrices, several of a shape: three updates beside torch.optim.Muon's, one matrix
    at a time.
    """
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8), (8, 24)]
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = Muon(ours, lr=0.1, weight_decay=0.01), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=0.01, rtol=0)


def test_orthogonalizing_keeps_the_directions_and_evens_their_lengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in [(32, 8), (8, 32), (8, 32), (8, 8)]]
    together = orthogonalize(matrices, torch.float32)
    for matrix, result in zip(matrices, together, strict=True):
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        lengths = u.mT @ result @ vh.mT
        assert (lengths - lengths.diag().diag()).abs().max() < 1e-3
        assert lengths.diag().min() > 0.6 and lengths.diag().max() < 1.3
    monkeypatch.setattr("sunfish.training.muon.AT_ONCE", 1)
    for result, alone in zip(together, orthogonalize(matrices, torch.float32), strict=True):
        torch.testing.assert_close(result, alone, atol=1e-5, rtol=0)
