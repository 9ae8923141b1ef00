"""The contract that every adapter must fulfil, with all that it takes to run it.

See `contract`, `rig` and `tasks`, and docs/adapters.md. Nothing is imported before it is needed.
"""
