"""The vocabulary: frozen values without behaviour beyond arithmetic, shared by every layer."""
