"""Changes that can be made to any configuration: ``NAME_VARIANT`` names the result.

A file defines ``apply(config) -> Config``; its docstring says what changes.
"""
