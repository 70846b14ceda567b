"""The published systems: one YAML each, and what is made from them."""
