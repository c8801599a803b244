"""From files to tensors: readers, tokenizers, memory-mapped corpora, and the order in which they are read."""
