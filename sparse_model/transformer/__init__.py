"""The weight-sparse transformer (METHOD §1): the model, its nodes and taps, how it is stored and run. Start at `model`."""
