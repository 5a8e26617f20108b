"""The Python face of the kernels in csrc/, with a plain PyTorch reference for each.

`ops` holds the operations; `library` finds the compiled library of a device or falls back to
`reference`; `swap` keeps host memory for blocks; `build` compiles; `check` proves a device's
kernels against float64; `timing` and `recovery` measure them.
"""
