"""From a corpus on disk or on the Hub to a batch, and from logits to score files."""
