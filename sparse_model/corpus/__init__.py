"""Text corpora: the tinypython generator, other sources, the tokenizer, and packed blocks of tokens."""
