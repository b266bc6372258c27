"""Which hidden units may be permuted and rescaled, and how to match another network's."""
