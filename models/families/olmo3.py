"""OLMo-3: norms behind attention and MLP; three of four layers slide.

The two kinds of layers may have different rotary frequencies.
"""

from functools import partial

from models.families.family import Family, one_full_in

OLMO3 = Family(
    architecture="Olmo3",
    template="olmo3_consistent_eos",
    qk_norm="all",
    norms="after",
    wide_norm=True,
    layers=partial(one_full_in, 4),
    rope_by_kind=True,
    defaults={"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "sliding_window": 4096},
)
