"""Values as tables, JSON, YAML and text: no service, no clock of its own."""
