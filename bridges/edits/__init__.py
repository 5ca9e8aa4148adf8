"""From circuit nodes to edits of a dense model (METHOD §5). Start at `mapping.map_circuit`."""
