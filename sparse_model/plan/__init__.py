"""What a training run will cost, from formulas: parameters, nonzeros, memory, FLOPs, hours and bytes on disk."""
