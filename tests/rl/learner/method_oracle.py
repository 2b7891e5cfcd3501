"""Section 12 of the method in plain float64 torch: a loop over rows, nothing packed.

``wrong`` names one place where the formula is made wrong, to see that a test sees it.
"""

from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

WRONG = (
    "population std",
    "epsilon",
    "no centring",
    "high clip as low clip",
    "no dual clip",
    "dual clip for all",
    "minimum",
    "kl of the other direction",
    "kl k2",
    "no kl",
    "token mean of each row",
    "prompt in the loss",
    "old log-probs of the second mini-batch",
    "no decay",
    "no norm clip",
    "beta2",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the method knows of one row: no packing, no segments."""

    ids: tuple[int, ...]
    prompt: int
    reward: float
    group: int


def advantages(rewards, groups, *, wrong=""):
    """Section 12.1."""
    out = []
    for reward, group in zip(rewards, groups, strict=True):
        mine = torch.tensor(
            [r for r, g in zip(rewards, groups, strict=True) if g == group],
            dtype=torch.float64,
        )
        single = len(mine) == 1
        mean = 0.0 if single or wrong == "no centring" else float(mine.mean())
        std = 1.0 if single else float(mine.std(correction=wrong != "population std"))
        out.append((reward - mean) / (std + (1e-2 if wrong == "epsilon" else 1e-6)))
    return out


def policy_loss(logp, old, a, *, low, high, dual, wrong=""):
    """Section 12.2, tokens of one row with its advantage ``a``."""
    high = low if wrong == "high clip as low clip" else high
    ratio = torch.exp(torch.clamp(logp - old, -20, 20))
    p1, p2 = -a * ratio, -a * torch.clamp(ratio, 1 - low, 1 + high)
    p = torch.minimum(p1, p2) if wrong == "minimum" else torch.maximum(p1, p2)
    if (a < 0 or wrong == "dual clip for all") and wrong != "no dual clip":
        bound = torch.tensor(-a * dual, dtype=p.dtype)
        p = torch.minimum(bound, p)
    return p


def kl(logp, ref, *, kind="k3", wrong=""):
    """Section 12.2, "low_var_kl", and two other estimators."""
    d = torch.clamp(ref - logp, -20, 20)
    d = -d if wrong == "kl of the other direction" else d
    kind = "k2" if wrong == "kl k2" else kind
    if kind == "k1":
        return -d
    if kind == "k2":
        return d * d / 2
    return torch.clamp(torch.exp(d) - d - 1, -10, 10)


def mean(rows, *, mode, group_rows=2, constant_length=8192, full_rows=0, wrong=""):
    """One number of each row's loss tokens: sections 12.2 and 15 (Q20)."""
    if wrong == "token mean of each row":
        mode = "token_mean" if mode == "row_mean" else "row_mean"
    if mode == "constant_length":
        return sum(row.sum() for row in rows) / (len(rows) * constant_length)
    size = {"token_mean": len(rows), "row_mean": 1, "micro_batch_mean": group_rows}
    size = size[mode]
    groups = [torch.cat(rows[i : i + size]) for i in range(0, len(rows), size)]
    count = len(groups)
    if mode == "micro_batch_mean" and full_rows:
        count = full_rows // size
    return sum(group.sum() / max(len(group), 1) for group in groups) / count


def train(policy, reference, steps, *, valid, loss, adam, mini_batch, wrong=""):
    """Trains ``policy`` (a transformers model, float64) on ``steps``, lists of rows.

    Args:
      valid: number of ids with a probability.
      loss: low, high, dual, kl_coefficient, mode, group_rows.
      adam: lr, betas, eps, weight_decay, clip_norm.
    """
    adam = dict(adam)
    clip = adam.pop("clip_norm")
    if wrong == "no decay":
        adam["weight_decay"] = 0.0
    if wrong == "beta2":
        adam["betas"] = (0.9, 0.99)
    optimizer = torch.optim.AdamW(policy.parameters(), **adam)

    def logprobs(model, rows):
        longest = max(len(row.ids) for row in rows)
        # Padding stands behind the tokens, and attention looks back only.
        ids = torch.tensor([row.ids + (0,) * (longest - len(row.ids)) for row in rows])
        log_p = model(ids).logits[:, :-1, :valid].log_softmax(-1)
        chosen = log_p.gather(-1, ids[:, 1:, None])[..., 0]
        first = [0 if wrong == "prompt in the loss" else r.prompt - 1 for r in rows]
        return [chosen[i, first[i] : len(row.ids) - 1] for i, row in enumerate(rows)]

    for rows in steps:
        a = advantages([r.reward for r in rows], [r.group for r in rows], wrong=wrong)
        with torch.no_grad():
            old, ref = logprobs(policy, rows), logprobs(reference, rows)
        for start in range(0, len(rows), mini_batch):
            index = range(start, min(start + mini_batch, len(rows)))
            new = logprobs(policy, [rows[i] for i in index])
            before = [old[i] for i in index]
            if wrong == "old log-probs of the second mini-batch":
                before = [row.detach() for row in new]
            clips = {name: loss[name] for name in ("low", "high", "dual")}
            losses = [
                policy_loss(n, b, a[i], **clips, wrong=wrong)
                for n, b, i in zip(new, before, index, strict=True)
            ]
            penalties = [
                kl(n, ref[i], wrong=wrong) for n, i in zip(new, index, strict=True)
            ]
            how = {
                "mode": loss["mode"],
                "group_rows": loss["group_rows"],
                "full_rows": mini_batch,
                "wrong": wrong,
            }
            weight = 0.0 if wrong == "no kl" else loss["kl_coefficient"]
            total = mean(losses, **how) + weight * mean(penalties, **how)
            optimizer.zero_grad()
            total.backward()
            norm = float("inf") if wrong == "no norm clip" else clip
            torch.nn.utils.clip_grad_norm_(policy.parameters(), norm)
            optimizer.step()


def random_batch(seed, rows=7, length=23):
    """Ragged float32 rows: logp, old, ref (NaN where masked), mask, rewards, groups."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, length + 1, rows)
    mask = (np.arange(length) < tokens[:, None]) & (rng.random((rows, length)) < 0.8)
    mask[:, 0] = True
    logp = -rng.exponential(2.0, (rows, length)).astype(np.float32)
    old = (logp + rng.normal(0, 0.5, logp.shape)).astype(np.float32)
    ref = (logp + rng.normal(0, 1.0, logp.shape)).astype(np.float32)
    for x in (logp, old, ref):
        x[~mask] = np.nan
    groups = np.arange(rows) // 3
    return logp, old, ref, mask.astype(np.int32), rng.normal(size=rows), groups
