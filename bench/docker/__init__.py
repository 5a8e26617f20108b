"""Points in containers: images built and checked, one container a point or a batch of points.

`daemon` reaches Docker, `context` and `images` make the images, `gpus` and `container` decide what
a container gets, `pool` is the runner's place, `worker` is the program inside, `bundle` archives.
The Docker SDK is imported where it is used and nowhere else.
"""
