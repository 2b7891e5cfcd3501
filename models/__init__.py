"""Decoder and encoder as pure functions, sharding, and chat templates.

``models.hf`` reads and writes Hugging Face folders. The lowest package: it imports no
other of this repository.

Axis legend, used in every einsum and signature of ``models`` and ``rl``:

    B batch row or cache slot    N query heads         D model width
    T query tokens               K key/value heads     F feed-forward width
    S key/value tokens           G = N / K             V vocabulary
    L layers                     H head width
"""
