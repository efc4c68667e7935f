"""The loop around the core: the controller that folds events, its ports, and its asyncio driver."""
