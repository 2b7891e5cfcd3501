"""Weights in and out: the base model, and folders of the same shape."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from models import hf, storage
from models.chat import ChatRenderer
from models.config import DecoderConfig
from models.lora import LoraConfig
from rl.learner.optimizer import Params
from scope_jax.run.export import absolute
from scope_jax.system.hosts import Hosts


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """Where weights come from and go to; holds none itself.

    Attributes:
      path: folder of the base model in Hugging Face format.
      tokenizer, renderer: of all three roles.
      decoder: the shape that all weights of a run have.
      mesh: of all trainer processes.
      hosts: these processes.
      images: whether the base model also sees images, which a run has none of.
    """

    path: str
    tokenizer: Any
    renderer: ChatRenderer
    decoder: DecoderConfig
    mesh: Mesh
    hosts: Hosts
    images: bool = False

    @classmethod
    def open(
        cls,
        path: str,
        tokenizer: Any,
        renderer: ChatRenderer,
        *,
        mesh: Mesh,
        hosts: Hosts,
        dtype: Any,
    ) -> tuple["BaseModel", Params]:
        """The model of a folder, and its parameters, sharded over the mesh."""
        decoder, params = hf.load(path, mesh=mesh, dtype=dtype)
        made = cls(
            path=path,
            tokenizer=tokenizer,
            renderer=renderer,
            decoder=decoder,
            mesh=mesh,
            hosts=hosts,
            images=hf.sees_images(path),
        )
        return made, params

    def load(self, path: str | None = None, *, dtype: Any = "float32") -> Params:
        """A folder's parameters (default: the base model's), sharded over the mesh."""
        return hf.load(path or self.path, mesh=self.mesh, dtype=dtype)[1]

    def export(
        self, folder: Path, params: Params, *, lora: LoraConfig | None = None
    ) -> None:
        """Writes weights as a Hugging Face folder, which other programs read too.

        Args:
          lora: ``params`` are an adapter, not scaled; the folder is one of peft's.

        Raises:
          StorageError: the disk refuses it.
        """
        params = self.hosts.local_copy(params, self.mesh)

        def save() -> None:
            with storage.writing(folder):
                if lora:
                    hf.save_adapter(
                        folder,
                        self.decoder,
                        params,
                        lora,
                        base=absolute(self.path),
                        images=self.images,
                        tokenizer=self.tokenizer,
                        template=self.renderer.template,
                    )
                    return
                hf.save(
                    folder,
                    self.decoder,
                    params,
                    tokenizer=self.tokenizer,
                    template=self.renderer.template,
                    stop_ids=self.renderer.stop_ids,
                )

        self.hosts.from_leader(save)
