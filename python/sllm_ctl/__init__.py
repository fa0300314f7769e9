"""The gateway, scheduler and node agents of sllm."""
