"""OPT and LLaMA for inference, laid out for tensor parallelism. Only `spec` is free of torch."""
