"""The Python face of the kernels in csrc/.

`interface` declares the operations; `library` finds a device's compiled ones or falls back to
`reference`, the same in plain PyTorch; `swap` keeps host memory for blocks; `build` compiles.
"""
