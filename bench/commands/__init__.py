"""The commands of `bench`, one module each: they parse, call a plain function and print."""
