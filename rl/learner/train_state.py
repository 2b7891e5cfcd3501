"""What an update changes: created, sharded over the mesh, parked, and copied."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from models import forward, sharding
from models.config import DecoderConfig
from models.errors import UserError
from models.fingerprint import fingerprint
from models.forward import Params
from models.lora import LoraConfig, scaled
from models.lora import shapes as lora_shapes
from rl.learner import optimizer

# The kind of memory that holds a parked optimizer.
PARKED = "pinned_host"


@struct.dataclass
class TrainState:
    """Everything that an update changes; one per trained model.

    Attributes:
      params: float32 masters of what is trained: all parameters, or an adapter
        (``models.lora``), whose B has not been multiplied by alpha / rank.
      opt_state: Adam's moments, sharded like the parameters, and its update count.
      step: int32, optimizer updates attempted.
      skipped: int32, updates skipped because the gradient was not finite.
    """

    params: Params
    opt_state: optax.ScaleByAdamState
    step: Array
    skipped: Array


class States:
    """The states of one model on one mesh.

    Args:
      config: the decoder.
      mesh: from ``models.sharding.make_mesh``.
      compute_dtype: of the copies that sampler and reference use.
      offload: whether a parked state's moments are in host memory.
      lora: what of the model is trained; None: all of it.

    Attributes:
      shardings: a ``TrainState`` of shardings.

    Raises:
      UserError: if the devices have no host memory to offload to.
    """

    def __init__(
        self,
        config: DecoderConfig,
        mesh: Mesh,
        compute_dtype: jnp.dtype,
        *,
        offload: bool = False,
        lora: LoraConfig | None = None,
    ):
        kinds = [m.kind for m in mesh.devices.flat[0].addressable_memories()]
        if offload and PARKED not in kinds:
            raise UserError(
                f"update.offload_optimizer=True: these devices have no {PARKED} memory "
                f"(only {', '.join(kinds)}): leave it off"
            )
        self._config, self._mesh, self._lora = config, mesh, lora
        self._compute_dtype, self._offload = compute_dtype, offload
        self._shapes = lora_shapes(config, lora) if lora else forward.shapes(config)
        params = sharding.param_shardings(self._shapes, mesh)
        whole = sharding.replicated(mesh)
        # Explicit: under jit alone the moments would come out replicated.
        opt_state = optax.ScaleByAdamState(count=whole, mu=params, nu=params)
        self.shardings = TrainState(
            params=params, opt_state=opt_state, step=whole, skipped=whole
        )
        self._init = jax.jit(_fresh, out_shardings=self.shardings)
        self._cast = jax.jit(self._cast_fn, out_shardings=params)
        self._fingerprint = jax.jit(
            lambda params: fingerprint(self._scaled(params), compute_dtype),
            out_shardings=whole,
        )

    def init(self, params: Params) -> TrainState:
        """Returns a fresh state from ``params``, which stay the caller's.

        Args:
          params: what is trained: all parameters, or an adapter.
        """
        return self._init(sharding.place(params, self.shardings.params))

    def park(self, state: TrainState) -> TrainState:
        """Returns ``state`` as it is kept between updates; don't use the old one.

        With ``offload`` its moments are in host memory, else nothing changes.
        """
        if not self._offload:
            return state
        wanted = self.shardings.opt_state
        mu, nu = jax.tree.map(
            lambda s: s.with_memory_kind(PARKED), (wanted.mu, wanted.nu)
        )
        return _move(state, wanted._replace(mu=mu, nu=nu))

    def unpark(self, state: TrainState) -> TrainState:
        """Returns ``state`` with its moments in the devices' memory."""
        return _move(state, self.shardings.opt_state) if self._offload else state

    def policy_params(self, state: TrainState) -> Params:
        """Returns a copy of what is trained in the compute dtype, for the sampler.

        An adapter's B has been multiplied by alpha / rank.
        """
        return self._cast(state.params)

    def fingerprint(self, state: TrainState) -> tuple[int, ...]:
        """Of ``policy_params``, which are not made; see ``models.fingerprint``."""
        return tuple(np.asarray(self._fingerprint(state.params)).tolist())

    def reference_params(self, params: Params) -> Params:
        """Returns a copy of ``params`` in the compute dtype, placed on the mesh."""
        return self._cast(sharding.place(params, self.shardings.params))

    def abstract(self) -> TrainState:
        """Returns shapes, dtypes and shardings of a state, for a restore."""
        return jax.tree.map(
            lambda x, s: x.update(sharding=s),
            jax.eval_shape(_fresh, self._shapes),
            self.shardings,
        )

    def abstract_base(self) -> Params:
        """Shapes of the whole model, sharded over the mesh, in the compute dtype."""
        shapes = forward.shapes(self._config)
        return jax.tree.map(
            lambda x, s: x.update(dtype=self._compute_dtype, sharding=s),
            shapes,
            sharding.param_shardings(shapes, self._mesh),
        )

    def _cast_fn(self, params: Params) -> Params:
        return jax.tree.map(
            lambda x: jnp.array(x, self._compute_dtype, copy=True),
            self._scaled(params),
        )

    def _scaled(self, params: Params) -> Params:
        return scaled(params, self._lora) if self._lora else params


def abstract(params: Params) -> Params:
    """Shapes, dtypes and shardings of parameters."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
    )


def _fresh(params: Params) -> TrainState:
    # A real copy: the state is donated later, the caller's parameters are not.
    params = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        params=params, opt_state=optimizer.init(params), step=zero, skipped=zero
    )


def _move(state: TrainState, wanted: optax.ScaleByAdamState) -> TrainState:
    moved = jax.device_put(state.opt_state, wanted)
    return state.replace(opt_state=jax.block_until_ready(moved))
