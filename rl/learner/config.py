"""Settings of the update (its shapes and arithmetic), and of long rollouts."""

from dataclasses import dataclass
from typing import Annotated

from models.attention import Backend
from models.precision import Dtype
from models.ranges import POSITIVE_TEMPERATURE, Count, CountOrZero, check_fields
from models.remat import Remat


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Shapes and arithmetic of the update."""

    length: Count = 16_384
    """Positions per packed row; a longer training example is left out and counted."""
    rows: Count = 4
    """Packed rows per micro-batch; a multiple of the mesh's data x fsdp."""
    capacity: Count = 16
    """Micro-batches of an optimizer batch are padded to a multiple of this, which
    bounds how many programs are compiled; padding costs memory, not time."""
    mini_batch_rows: CountOrZero = 0
    """Training examples (datums, not packed rows) per optimizer update; 0 makes one
    update of the whole batch."""
    logit_chunk: Count = 512
    """Tokens of each packed row whose logits exist at once."""
    remat: Remat = "block"
    """What the backward pass recomputes to save memory: each whole block, all but its
    attention, all but its attention and matrix products, or nothing."""
    attention: Backend = "auto"
    """How attention is computed, see `models.attention`; auto is blocked. cudnn cannot
    pack: each training example takes a row of its own."""
    share_history: bool = False
    """Of formats that train each turn by itself (Qwen3): compute what the turns of a
    conversation have in common once. The same gradients from fewer tokens; rows must
    be long enough for a conversation with all its turns."""
    compute_dtype: Dtype = "auto"
    """Arithmetic of the update's forward pass, the same in both stages, as one engine
    plays both policies; auto is `model.dtype`. Master weights, moments and the sums
    of gradients over micro-batches are always float32; a product's gradient is made,
    and summed over devices, in this type."""
    max_skipped: Count = 3
    """Training stops after this many updates in a row were skipped because their
    gradient was not finite."""
    temperature: Annotated[float, POSITIVE_TEMPERATURE] = 1.0
    """Temperature of the trained policy: the one it is sampled at."""
    offload_optimizer: bool = False
    """Keep Adam's moments in the host's pinned memory during rollouts, and move them
    back for each update."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """What a rollout loses for the tokens that it samples, over all its turns."""

    limit: Count = 8192
    """Beyond this many tokens it loses 1, where there is a buffer."""
    buffer: CountOrZero = 0
    """Tokens before the limit over which the loss grows from 0 to 1; 0: it never loses
    anything."""
    mask: bool = False
    """Train on nothing of a rollout that was cut off at any limit of tokens; it keeps
    its reward, which its group is compared with."""

    def __post_init__(self):
        check_fields(self)
