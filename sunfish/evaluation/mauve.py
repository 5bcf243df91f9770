"""How near one pile of texts is to another: MAUVE, over any features.

Both piles' features are cut into the same clusters; of the two histograms P and Q the curve (exp(-c KL(Q|R)),
exp(-c KL(P|R))) over all mixtures R = w P + (1 - w) Q is drawn, and MAUVE is the area under it: 1 where the
piles are alike. It depends on how many texts and clusters there are, so it is read beside that of real text
against other real text, at the same number.

Source: [MAUVE] Pillutla et al. 2021, section 2, with the constants of its appendix (c = 5, clusters a tenth
of the texts)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sunfish.errors import UserError

SCALE = 5.0
TEXTS_A_CLUSTER = 10
EXPLAINED = 0.9  # of the variance, by the axes that are kept
MIXTURES = 25
FEWEST = 5 * TEXTS_A_CLUSTER  # texts of either pile: below five clusters nothing is told apart

Array = NDArray[np.float64]


def mauve(ours: np.ndarray, theirs: np.ndarray, seed: int) -> float:
    """Return MAUVE of two piles' features, both (texts, features); `seed` is that of the clusters.

    Raises:
        UserError: fewer than 50 texts in a pile.
    """
    few = min(len(ours), len(theirs))
    if few < FEWEST:
        says = f"MAUVE of {few} texts says nothing: it needs {FEWEST} of each kind"
        raise UserError(f"{says}; set evaluate.num_samples or data.held_out_share higher")
    from sklearn.cluster import KMeans  # half a second, that only those pay who ask for MAUVE
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    together = normalize(np.concatenate((ours, theirs)))
    axes = PCA(n_components=EXPLAINED, random_state=seed).fit_transform(together)
    clusters = KMeans(max(2, round(few / TEXTS_A_CLUSTER)), n_init=5, random_state=seed).fit_predict(axes)
    parts = np.split(clusters, [len(ours)])
    return area(*(np.bincount(part, minlength=clusters.max() + 1) / len(part) for part in parts))


def area(p: Array, q: Array) -> float:
    """Return the area under the divergence curve of two histograms, the mean of both ways to lay it out."""
    from sklearn.metrics import auc

    weights = np.linspace(1e-6, 1 - 1e-6, MIXTURES)
    divergences = [(_kl(q, w * p + (1 - w) * q), _kl(p, w * p + (1 - w) * q)) for w in weights]
    curve = np.exp(-SCALE * np.array([(0.0, np.inf), *divergences[::-1], (np.inf, 0.0)]))
    first, second = (curve[np.argsort(curve[:, axis], kind="stable")] for axis in (0, 1))
    return float(0.5 * (auc(first[:, 0], first[:, 1]) + auc(second[:, 1], second[:, 0])))


def _kl(p: Array, r: Array) -> float:
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / r[there])))
