"""Docker: images built and checked, confined containers that run `bench`, archives of both.

`daemon` reaches Docker, `images` builds, `container` runs a command, `gpus` finds what it may use,
`checks` is for `bench doctor`, `bundle` archives. The SDK is imported in functions only.
"""
