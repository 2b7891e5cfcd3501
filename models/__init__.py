"""Decoder and encoder as pure functions; weights in and out; chat rendering.

Axis legend, used in every einsum and signature of ``models`` and ``rl``:

    B batch row or cache slot    N query heads         D model width
    T query tokens               K key/value heads     F feed-forward width
    S key/value tokens           G = N / K             V vocabulary
    L layers                     H head width
"""
