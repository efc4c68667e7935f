"""The node agent: reads the GPUs of its node and publishes them as a GPUNode."""
