"""SCOPE itself, as pure functions: prompts, formats, turn rules, parsers, rewards.

``(spec 9.2)`` cites section 9.2 of ``docs/spec.md``, ``(spec Q48)`` row Q48 of its list
of quirks. May import ``models`` and ``rl.records``; the only input or output is reading
prompt files.
"""
