"""The commands of `sllm-ctl`, one module each."""
