"""The commands of `sllm-store`, one module each."""
