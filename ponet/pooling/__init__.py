"""Pure pooling functions of PoNet; the modules that own parameters call them.

`plan` says what is pooled, `mix` chooses who does it: `reference`, the definition; `eager`, on any
device; `triton_mix` with `triton_kernels`. `global_pool` is the global pool, and joins all parts.
"""
