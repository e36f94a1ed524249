"""From embeddings to results: distances, exact metrics, binary codes, reports."""
